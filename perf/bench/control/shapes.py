"""The loads that rules were compared on from the start: rates over time, of a length and a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from conch.errors import ConfigError
from perf.trace_files import load_csv
from perf.traces import RateFunction, Times, cosine, steady

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
class Shape:
    """A rate over time, with its highest value; requests come ``group`` at a time."""

    rate: RateFunction
    highest_rps: float
    description: str
    steps_s: tuple[float, ...] = ()
    group: int = 1


def _stationary(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """A constant rate."""
    del duration_s, warm_up_s, seed
    return Shape(
        rate=steady(STATIONARY_RPS),
        highest_rps=STATIONARY_RPS,
        description=f"Poisson arrivals, {STATIONARY_RPS:g} req/s",
    )


def _step(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """Low for a quarter, four times that for a half, low again."""
    del warm_up_s, seed
    up_s, down_s = duration_s / 4, duration_s * 3 / 4
    return Shape(
        rate=lambda t: np.where((t >= up_s) & (t < down_s), STEP_HIGH_RPS, STEP_LOW_RPS),
        highest_rps=STEP_HIGH_RPS,
        description=(
            f"Poisson arrivals, {STEP_LOW_RPS:g} req/s, from {up_s:g} to {down_s:g} s "
            f"{STEP_HIGH_RPS:g} req/s"
        ),
        steps_s=(up_s, down_s),
    )


def _bursts(duration_s: float, warm_up_s: float, seed: int) -> Shape:
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

    return Shape(
        rate=rate,
        highest_rps=BURST_FACTOR * DIURNAL_HIGH_RPS,
        description=(
            f"Poisson arrivals, cosine {DIURNAL_LOW_RPS:g} to {DIURNAL_HIGH_RPS:g} req/s, period "
            f"{DIURNAL_S:g} s, ×{BURST_FACTOR:g} for {BURST_S:g} s once in each "
            f"{BURST_SLOT_S:g} s"
        ),
    )


def _azure(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """The recorded rates, averaged over ten seconds."""
    return recorded(duration_s, warm_up_s, seed, factor=AZURE_FACTOR, bin_s=AZURE_BIN_S)


def recorded(
    duration_s: float, warm_up_s: float, seed: int, *, factor: float, bin_s: float
) -> Shape:
    """A window of the recorded rates; each seed has its own, spread evenly over the recording.

    Args:
        duration_s, warm_up_s, seed: of the load.
        factor: the rates are multiplied by.
        bin_s: the rates are averaged over.

    Raises:
        ConfigError: where the recording is shorter than the load.
    """
    arrival_s = load_csv(AZURE).arrival_s
    counts = np.bincount((arrival_s / bin_s).astype(np.int64))
    # The last bin is not full.
    rates = counts[:-1] / bin_s * factor
    first, length = int(np.ceil(warm_up_s / bin_s)), int(np.ceil(duration_s / bin_s))
    starts = np.arange(first, rates.size - length + 1)
    if not starts.size:
        raise ConfigError(
            f"trace azure: {duration_s:g} s and a warm-up of {warm_up_s:g} s, must be at most "
            f"{rates.size * bin_s:g} s together.",
            hint="Shorten the run.",
        )
    start = int(starts[int(seed * GOLDEN % 1.0 * starts.size)])

    def rate(times: Times) -> Times:
        index = np.floor(times / bin_s).astype(np.int64) + start
        return np.asarray(rates[index.clip(0, rates.size - 1)], dtype=np.float64)

    return Shape(
        rate=rate,
        highest_rps=float(rates.max()),
        description=(
            f"Poisson arrivals, rate of the Azure LLM inference trace 2023 (conversation, "
            f"CC-BY 4.0) from {start * bin_s:g} s on, averaged over {bin_s:g} s, × {factor:g}"
        ),
    )


KNOWN: Mapping[str, Callable[[float, float, int], Shape]] = MappingProxyType(
    {"stationary": _stationary, "step": _step, "bursts": _bursts, "azure": _azure}
)
"""Rate over time by name; of (duration_s, warm_up_s, seed)."""
