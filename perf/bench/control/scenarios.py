"""The loads that rules are compared on: functions of their length and a seed.

Each has a warm-up at its head, in which the same process runs on backwards from time 0: its
requests are served and not scored. Every rule begins it with the same instances, the fewest that
carry the warm-up's mean rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from conch.errors import ConfigError
from control.core.policy import Policy
from control.core.queue_model.capacity import capacity_rps
from control.core.service.learnt import ServiceTime
from perf.bench.control.shapes import KNOWN, Shape
from perf.bench.control.untuned import UNTUNED
from perf.bench.emulated import EmulatedModel
from perf.traces import Times, Trace, thinned

EMULATED = EmulatedModel(alpha_s=0.008, beta_s=0.032)
"""The accelerator of the comparison: ℓ(b) = 8 ms·b + 32 ms, B 8, 3 s to load."""
POLICY = Policy(slo_s=0.4, max_instances=16, max_batch_size=8, cores=16, rebatch=False, load_s=3.0)
"""What every rule is given with it. Its instances share no cores."""
WARM_UP_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load, ready to be played.

    Attributes:
        trace: the arrivals, the warm-up first; it begins at 0 and knows its true rate.
        warm_up_s: of the trace that is served and not scored.
        instances: to begin with.
        steps_s: when the rate jumps, from the end of the warm-up.
        neighbour_fraction: of the seconds in which somebody else works on the machine, and every
            batch takes longer.
    """

    trace: Trace
    warm_up_s: float
    instances: int
    steps_s: tuple[float, ...] = ()
    neighbour_fraction: float = 0.0

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
            arrival_s=_arrivals(rate, shape, whole_s, seed),
            duration_s=whole_s,
            description=f"{shape.description}, {duration_s:g} s after {warm_up_s:g} s of warm-up",
            seed=seed,
            rate=rate,
        ),
        warm_up_s=warm_up_s,
        instances=instances_for(float(rate(seconds).mean()), model=model, policy=policy),
        steps_s=shape.steps_s,
    )


def _arrivals(rate: Callable[[Times], Times], shape: Shape, whole_s: float, seed: int) -> Times:
    """When the requests come: a Poisson stream, of groups where the shape has them."""
    if shape.group == 1:
        return thinned(rate, shape.highest_rps, whole_s, seed)
    heads = thinned(lambda t: rate(t) / shape.group, shape.highest_rps / shape.group, whole_s, seed)
    return np.repeat(heads, shape.group)


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


KINDS: Mapping[str, Callable[[float, float, int], Shape]] = MappingProxyType({**KNOWN, **UNTUNED})
"""Rate over time by name; of (duration_s, warm_up_s, seed)."""
