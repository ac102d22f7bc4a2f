"""The loads that rules are compared on: functions of their length and a seed.

Each has a warm-up at its head, in which the same process runs on backwards from time 0: its
requests are served and not scored. Every rule begins it with the same instances, the fewest that
carry the warm-up's mean rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from conch.errors import ConfigError
from control.core.capacity import capacity_rps
from control.core.service_time import ServiceTime
from control.core.types import Policy
from perf.bench.emulated import EmulatedModel
from perf.trace_files import load_csv
from perf.traces import RateFunction, Times, Trace, cosine, steady, thinned

EMULATED = EmulatedModel(alpha_s=0.008, beta_s=0.032)
"""The accelerator of the comparison: ℓ(b) = 8 ms·b + 32 ms, B 8, 3 s to load."""
POLICY = Policy(slo_s=0.4, max_instances=16, max_batch_size=8, cores=16, rebatch=False, load_s=3.0)
"""What every rule is given with it. Its instances share no cores."""
WARM_UP_S = 90.0
STATIONARY_RPS = 150.0
STEP_LOW_RPS, STEP_HIGH_RPS = 60.0, 240.0
DIURNAL_LOW_RPS, DIURNAL_HIGH_RPS = 40.0, 200.0
DIURNAL_S = 600.0
BURST_FACTOR, BURST_S, BURST_SLOT_S = 2.0, 15.0, 90.0
AZURE = Path(__file__).parents[3] / "examples" / "traces" / "azure_llm_2023_conv.csv"
AZURE_FACTOR, AZURE_BIN_S = 27.0, 10.0
GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, are spread evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load, ready to be played.

    Attributes:
        trace: the arrivals, the warm-up first; it begins at 0 and knows its true rate.
        warm_up_s: of the trace that is served and not scored.
        instances: to begin with.
        steps_s: when the rate jumps, from the end of the warm-up.
    """

    trace: Trace
    warm_up_s: float
    instances: int
    steps_s: tuple[float, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds that are scored."""
        return self.trace.duration_s - self.warm_up_s

    @property
    def seed(self) -> int:
        """Of the arrivals."""
        return self.trace.seed or 0

    @property
    def arrival_s(self) -> Times:
        """float64 [n], ascending, below 0 in the warm-up."""
        return self.trace.arrival_s - self.warm_up_s

    def rate_steps(self, step_s: float = 0.5) -> tuple[tuple[float, float], ...]:
        """The true rate as (from_s, requests per second), from the start of the warm-up."""
        assert self.trace.rate is not None
        times = np.arange(0.0, self.trace.duration_s, step_s)
        rates = self.trace.rate(times + step_s / 2)
        return tuple(zip(times.tolist(), rates.tolist(), strict=True))


def scenario(
    kind: str,
    *,
    duration_s: float,
    seed: int,
    warm_up_s: float = WARM_UP_S,
    model: EmulatedModel = EMULATED,
    policy: Policy = POLICY,
) -> Scenario:
    """The scenario of this kind: one of ``KINDS``.

    Raises:
        ConfigError: for a kind that is not known, or a load that does not fit the length.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"trace {kind}: not known, must be one of {', '.join(KINDS)}.",
            hint="Check the spelling.",
        )
    shape = KINDS[kind](duration_s, warm_up_s, seed)

    def rate(times: Times) -> Times:
        return shape.rate(times - warm_up_s)

    whole_s = warm_up_s + duration_s
    seconds = np.arange(0.5, max(warm_up_s, 1.0))
    return Scenario(
        trace=Trace(
            name=kind,
            arrival_s=thinned(rate, shape.highest_rps, whole_s, seed),
            duration_s=whole_s,
            description=f"{shape.description}, {duration_s:g} s after {warm_up_s:g} s of warm-up",
            seed=seed,
            rate=rate,
        ),
        warm_up_s=warm_up_s,
        instances=instances_for(float(rate(seconds).mean()), model=model, policy=policy),
        steps_s=shape.steps_s,
    )


def instances_for(rate_rps: float, *, model: EmulatedModel, policy: Policy) -> int:
    """The fewest instances that carry the rate, by the true service time; else the most allowed."""
    service = ServiceTime(alpha_s=model.alpha_s, beta_s=model.beta_s)
    for count in range(policy.min_instances, policy.max_instances):
        carried = capacity_rps(
            service,
            instances=count,
            largest_batch=model.max_batch_size,
            max_queue_delay_s=model.max_queue_delay_s,
            policy=policy,
        )
        if carried >= rate_rps:
            return count
    return policy.max_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """A rate over time, with its highest value."""

    rate: RateFunction
    highest_rps: float
    description: str
    steps_s: tuple[float, ...] = ()


def _stationary(duration_s: float, warm_up_s: float, seed: int) -> _Shape:
    """A constant rate."""
    del duration_s, warm_up_s, seed
    return _Shape(
        rate=steady(STATIONARY_RPS),
        highest_rps=STATIONARY_RPS,
        description=f"Poisson arrivals, {STATIONARY_RPS:g} req/s",
    )


def _step(duration_s: float, warm_up_s: float, seed: int) -> _Shape:
    """Low for a quarter, four times that for a half, low again."""
    del warm_up_s, seed
    up_s, down_s = duration_s / 4, duration_s * 3 / 4
    return _Shape(
        rate=lambda t: np.where((t >= up_s) & (t < down_s), STEP_HIGH_RPS, STEP_LOW_RPS),
        highest_rps=STEP_HIGH_RPS,
        description=(
            f"Poisson arrivals, {STEP_LOW_RPS:g} req/s, from {up_s:g} to {down_s:g} s "
            f"{STEP_HIGH_RPS:g} req/s"
        ),
        steps_s=(up_s, down_s),
    )


def _bursts(duration_s: float, warm_up_s: float, seed: int) -> _Shape:
    """A day squeezed into ten minutes, with one burst in every slot, at a random start."""
    rng = np.random.default_rng((seed, 0xB5))
    before = int(np.ceil(warm_up_s / BURST_SLOT_S))
    slots = np.arange(-before, int(duration_s / BURST_SLOT_S + 1e-9))
    starts = slots * BURST_SLOT_S + rng.uniform(0.0, BURST_SLOT_S - BURST_S, slots.size)
    base = cosine(DIURNAL_LOW_RPS, DIURNAL_HIGH_RPS, DIURNAL_S)

    def rate(times: Times) -> Times:
        index = np.searchsorted(starts, times, side="right") - 1
        since_s = np.where(index >= 0, times - starts[index.clip(min=0)], np.inf)
        return np.where(since_s < BURST_S, BURST_FACTOR, 1.0) * base(times)

    return _Shape(
        rate=rate,
        highest_rps=BURST_FACTOR * DIURNAL_HIGH_RPS,
        description=(
            f"Poisson arrivals, cosine {DIURNAL_LOW_RPS:g} to {DIURNAL_HIGH_RPS:g} req/s, period "
            f"{DIURNAL_S:g} s, ×{BURST_FACTOR:g} for {BURST_S:g} s once in each "
            f"{BURST_SLOT_S:g} s"
        ),
    )


def _azure(duration_s: float, warm_up_s: float, seed: int) -> _Shape:
    """A window of the recorded rates; each seed has its own, spread evenly over the recording."""
    recorded = load_csv(AZURE)
    counts = np.bincount((recorded.arrival_s / AZURE_BIN_S).astype(np.int64))
    # The last bin is not full.
    rates = counts[:-1] / AZURE_BIN_S * AZURE_FACTOR
    first, length = int(np.ceil(warm_up_s / AZURE_BIN_S)), int(np.ceil(duration_s / AZURE_BIN_S))
    starts = np.arange(first, rates.size - length + 1)
    if not starts.size:
        raise ConfigError(
            f"trace azure: {duration_s:g} s and a warm-up of {warm_up_s:g} s, must be at most "
            f"{rates.size * AZURE_BIN_S:g} s together.",
            hint="Shorten the run.",
        )
    start = int(starts[int(seed * GOLDEN % 1.0 * starts.size)])

    def rate(times: Times) -> Times:
        index = np.floor(times / AZURE_BIN_S).astype(np.int64) + start
        return np.asarray(rates[index.clip(0, rates.size - 1)], dtype=np.float64)

    return _Shape(
        rate=rate,
        highest_rps=float(rates.max()),
        description=(
            f"Poisson arrivals, rate of the Azure LLM inference trace 2023 (conversation, "
            f"CC-BY 4.0) from {start * AZURE_BIN_S:g} s on, averaged over {AZURE_BIN_S:g} s, "
            f"× {AZURE_FACTOR:g}"
        ),
    )


KINDS: Mapping[str, Callable[[float, float, int], _Shape]] = MappingProxyType(
    {"stationary": _stationary, "step": _step, "bursts": _bursts, "azure": _azure}
)
"""Rate over time by name; of (duration_s, warm_up_s, seed)."""
