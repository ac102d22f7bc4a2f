"""InferLine's planner and tuner, for one model (a pipeline of one stage).

Planner: the fewest instances whose p99, simulated over a sample of the traffic, keeps the SLO. Here
the sample is Poisson and the simulator is Conch's, with Conch's learnt service times; so k
instances are planned for Λ(k) = k·μ·ρ_k, where μ = B/ℓ(B) and ρ_k is what the paper calls the
maximum provisioning ratio.

Tuner, at each look: the traffic envelope is the arrival rate over windows that double from the
shortest to 60 s. When the rate of any window is above what the plan's own sample has in a window of
that length, k = fewest with k·μ·ρ_k ≥ the greatest rate of the windows that are above: up at once.
Down only when 15 s have passed since any change: to the fewest that carry the greatest rate of the
last 30 s, over windows of 5 s.

Source: Crankshaw et al., InferLine: latency-aware provisioning and scaling for prediction serving
pipelines, SoCC 2020, arXiv 1812.01776, section 5.

Differences: one ρ per count from the simulator instead of one for the plan (``rho`` gives the
paper's own form); the sample's envelope is λ + z·√(λ/w), the Poisson one, instead of that of a
recorded trace, which nobody has before the traffic comes; and the shortest window is a look, not a
service time. Only windows that end now are compared, as there is a look at least every 2 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control.core.load.windows import Interval
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines.carried import Carried
from control.core.rules.baselines.envelope import envelope
from control.core.rules.baselines.signals import absorbed, asked, held, no_data, trusted
from control.core.types import Decision, Observation

SOURCE = "InferLine (SoCC 2020, arXiv 1812.01776), planner and tuner"
GRID: Mapping[str, Sequence[float]] = {
    "envelope_z": (0.0, 2.0, 3.0, 4.0),
    "down_after_s": (15.0, 30.0, 60.0),
    "down_window_s": (30.0, 60.0),
}
LONGEST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferLine:
    """Plan by simulation, tune by the traffic envelope.

    Attributes:
        shortest_s: the shortest window of the envelope; the others double up to 60 s.
        envelope_z: standard deviations that a window of the plan's Poisson sample lies above its
            mean; 0 compares every window with the mean.
        down_after_s: since any change, before a scale down.
        down_window_s, down_step_s: a scale down keeps the greatest rate of any ``down_step_s`` in
            the last ``down_window_s``.
        rho: the maximum provisioning ratio; 0 for what the simulator finds for each count.
    """

    name: str = "inferline"
    shortest_s: float = 1.0
    envelope_z: float = 3.0
    down_after_s: float = 15.0
    down_window_s: float = 30.0
    down_step_s: float = 5.0
    rho: float = 0.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """Up at once when the envelope is left, down late."""
        state = absorbed(state, seen, policy, window_s=max(LONGEST_S, self.down_window_s))
        applied = seen.applied
        if applied is None or not trusted(state, seen):
            return no_data(seen), state
        envelope = newest_rates(state.intervals, self.shortest_s)
        terms = {f"rate_{window_s:g}s_rps": rate for window_s, rate in envelope.items()}
        carried = Carried(state=state, seen=seen, policy=policy, applied=applied, rho=self.rho)
        if not carried.is_known:
            return held(seen, Reason.HOLD_IDLE, terms), state
        planned_rps = carried.rps(applied.instances)
        above = [
            rate
            for window_s, rate in envelope.items()
            if rate > planned_rps + self.envelope_z * math.sqrt(planned_rps / window_s)
        ]
        peak_rps = highest_rate(
            state.intervals,
            step_s=self.down_step_s,
            after_s=seen.sampled_s - self.down_window_s,
        )
        terms |= {"planned_rps": planned_rps}
        count, short = applied.instances, False
        if above:
            needed, found_rps = carried.fewest(max(above))
            terms |= {"above_rps": max(above), "capacity_rps": found_rps}
            count, short = max(count, needed), found_rps < max(above)
        elif peak_rps is not None:
            terms["peak_rps"] = peak_rps
            if self._may_go_down(state, seen):
                count = min(count, carried.fewest(peak_rps)[0])
        decision = asked(state, seen, policy, applied, count=count, terms=terms, short=short)
        return decision, state

    def _may_go_down(self, state: ControlState, seen: Observation) -> bool:
        """Whether the last change is long enough ago, and the window of the peak is covered."""
        if state.changes and seen.at_s - state.changes[-1].at_s < self.down_after_s:
            return False
        covered_s = sum(
            i.span_s for i in state.intervals if i.end_s > seen.sampled_s - self.down_window_s
        )
        return covered_s >= 0.9 * self.down_window_s


def newest_rates(intervals: tuple[Interval, ...], shortest_s: float) -> dict[float, float]:
    """Arrivals per second over windows that end now: the shortest, twice it, ... to 60 s.

    Only windows that the intervals cover; the span that they really have is divided by.

    Example:
        Intervals of 1 s with 80, 100 and 120 arrivals and a shortest window of 1 s give
        {1.0: 120.0, 2.0: 110.0}.
    """
    windows = [shortest_s]
    while windows[-1] < LONGEST_S:
        windows.append(min(LONGEST_S, windows[-1] * 2))
    rates: dict[float, float] = {}
    arrivals = span_s = 0.0
    for one in reversed(intervals):
        arrivals += one.arrivals
        span_s += one.span_s
        while windows and span_s >= windows[0] - 1e-6:
            rates[windows.pop(0)] = arrivals / span_s
    return rates


def highest_rate(intervals: tuple[Interval, ...], *, step_s: float, after_s: float) -> float | None:
    """The greatest arrival rate over any ``step_s`` that ends after ``after_s``; None without one.

    Example:
        Intervals of 1 s with 80, 100 and 120 arrivals and a step of 2 s give 110.0.
    """
    inside = [i for i in intervals if i.end_s > after_s]
    found = envelope(
        [i.end_s for i in inside],
        [i.arrivals for i in inside],
        [i.span_s for i in inside],
        inside[-1].end_s if inside else after_s,
        windows_s=(step_s,),
    )
    return found.get(step_s)
