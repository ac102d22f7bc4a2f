"""A rule that knows the load of the next seconds: what foresight alone would save.

At each look it takes the fewest instances whose capacity carries the highest mean rate of the
horizon. Capacity is Conch's own Λ, with the learnt service times. It is greedy in cost and knows
rates, not arrivals: it ignores the backlog, the jump inside a mean and the bad luck of a Poisson
second. So it is a yardstick of cost, not a bound on attainment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines.carried import Carried
from control.core.rules.baselines.signals import absorbed, asked, held, no_data, trusted
from control.core.types import Decision, Observation

SOURCE = "A yardstick, not a system: the true rate of the trace"
GRID: Mapping[str, Sequence[float]] = {"mean_s": (2.0, 5.0, 10.0)}
_SAMPLE_S = 0.5

Rate = tuple[tuple[float, float], ...] | Callable[[float], float]
"""(at_s, requests per second from then on), ascending; or the rate at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """When this rule saw its first look."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clairvoyant:
    """Carry the highest mean rate of the next seconds with the fewest instances.

    Attributes:
        rate: the true rate; given by a bench.
        start_s: what the rate's times count from, in the time of the looks; None for the first
            look.
        horizon_s: how far it sees: an instance's load time and 11 s.
        mean_s: the rate is averaged over this long.
    """

    name: str = "clairvoyant"
    rate: Rate = ()
    start_s: float | None = None
    horizon_s: float = 14.0
    mean_s: float = 10.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """The fewest instances for what is coming."""
        state = absorbed(state, seen, policy)
        if not isinstance(state.memory, Began):
            state = replace(state, memory=Began(at_s=seen.at_s))
        if seen.applied is None or not trusted(state, seen):
            return no_data(seen), state
        assert isinstance(state.memory, Began)
        if not self.rate:  # without foresight there is nothing to act on
            return no_data(seen), state
        start_s = state.memory.at_s if self.start_s is None else self.start_s
        coming_rps = highest_mean_rps(
            self.rate, from_s=seen.at_s - start_s, horizon_s=self.horizon_s, mean_s=self.mean_s
        )
        terms = {"coming_rps": coming_rps, "horizon_s": self.horizon_s, "mean_s": self.mean_s}
        carried = Carried(state=state, seen=seen, policy=policy, applied=seen.applied)
        if not carried.is_known:
            return held(seen, Reason.HOLD_IDLE, terms), state
        count, capacity_rps = carried.fewest(coming_rps)
        decision = asked(
            state,
            seen,
            policy,
            seen.applied,
            count=count,
            terms={**terms, "capacity_rps": capacity_rps},
            short=capacity_rps < coming_rps,
        )
        return decision, state


def highest_mean_rps(rate: Rate, *, from_s: float, horizon_s: float, mean_s: float) -> float:
    """The greatest mean over any ``mean_s`` within the horizon; 0 without a rate.

    Example:
        100/s, and 200/s from 5 s on: the horizon from 0 s to 14 s holds the mean over 4 s to 14 s,
        (1 · 100 + 9 · 200) / 10 = 190/s.
    """
    until_s = from_s + horizon_s
    mean_s = min(mean_s, horizon_s)
    steps = _steps(rate, from_s, until_s)
    edges = [at_s for at_s, _ in steps]
    # The mean over a sliding window of a step function is greatest where an end meets a step.
    starts = [s for e in (*edges, until_s) for s in (e, e - mean_s)]
    inside = [s for s in starts if from_s <= s <= until_s - mean_s]
    return max(_mean_rps(steps, s, s + mean_s) for s in (from_s, *inside))


def _steps(rate: Rate, from_s: float, until_s: float) -> list[tuple[float, float]]:
    """The steps of the rate that matter between two times, the first one cut to its start."""
    if callable(rate):
        count = max(1, round((until_s - from_s) / _SAMPLE_S))
        times = [from_s + k * (until_s - from_s) / count for k in range(count)]
        return [(at_s, rate(at_s)) for at_s in times]
    before = [rps for at_s, rps in rate if at_s <= from_s]
    first = (from_s, before[-1] if before else 0.0)
    return [first, *((at_s, rps) for at_s, rps in rate if from_s < at_s < until_s)]


def _mean_rps(steps: list[tuple[float, float]], start_s: float, end_s: float) -> float:
    """The mean of a step function between two times."""
    ends = [*(at_s for at_s, _ in steps[1:]), float("inf")]
    return sum(
        rps * max(0.0, min(end, end_s) - max(at_s, start_s))
        for (at_s, rps), end in zip(steps, ends, strict=True)
    ) / (end_s - start_s)
