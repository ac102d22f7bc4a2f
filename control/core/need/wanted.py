"""What the load calls for: the capacity that is needed, and the instances to have.

Theory of operation. Where idle instances cost nothing, the goal is the most that still add
capacity: nobody else has a use for them, and each is room for a load that nobody foresaw. Where the
owner named no most, they are added up to ``RESERVE`` times the highest load on record. Nothing is
given up for quiet.
Where the policy has an ``idle_cost``, an instance is held until what it cost while nobody needed it
equals what loading it again would cost in late requests. This break-even rule costs at most twice
the best release times in hindsight (ski rental; Karlin et al., *Competitive Randomized Algorithms
for Nonuniform Problems*, 1994, the deterministic case).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from control.core.load.demand import Demand
from control.core.memory.state import ControlState, Loads
from control.core.need.second_copy import ScaleUp
from control.core.queue_model import simulator
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.service.learnt import ServiceTime
from control.core.types import MAX_INSTANCES, Need, Policy, Settings

RESERVE = 2.0
"""Capacity as a multiple of the highest load on record; more is worth nothing."""
SEEN_AND_DRAINED_S = 2.0
"""What it takes to see a rise and to drain what it left, beside the loading."""
RECENT_S = 30.0
"""Where idle instances cost nothing, what was needed this long ago is still held before others."""
OUT_OF_REACH = 0.5
"""Where no count keeps the SLO, instances are counted by this share of their throughput: the queue
must not grow."""
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the load calls for, before reason and guard.

    Attributes:
        demand: the load.
        need_rps: what the capacity must be.
        capacities: Λ by instance count.
        needed: the fewest instances that carry the need.
        sure_rps, likely_rps: the load that is remembered: at least, and as far as it may well be.
        hold: the most that were needed while holding them was the cheaper way.
        goal: the instances to have.
        load_s: how long an instance takes to load.
        panic: the backlog alone takes more than half the SLO to drain.
        fresh: whether a scale up is made by a second copy.
        reachable: whether any count keeps the SLO at any load; ``capacities`` are shares of the
            throughput where none does.
    """

    demand: Demand
    need_rps: float
    capacities: dict[int, float]
    needed: int
    sure_rps: float
    likely_rps: float
    hold: int
    goal: int
    load_s: float
    panic: bool
    fresh: bool
    reachable: bool = True

    @property
    def overloaded(self) -> bool:
        """Whether no allowed count carries the need."""
        return self.capacities[self.needed] < self.need_rps

    @property
    def need(self) -> Need:
        """For the budget, and for whoever reads the decision."""
        return Need(
            rate_rps=self.demand.fast_rps,
            needed=self.needed,
            hold=self.hold,
            goal=self.goal,
            capacities=self.capacities,
        )


def wanted(
    state: ControlState, demand: Demand, known: Knowledge, applied: Settings, *, at_s: float
) -> Wanted:
    """The instances that the load calls for, with these settings of the batching."""
    policy = known.policy
    load_s = state.load_s(policy)
    capacities = known.capacities(applied)
    reachable = any(carried > 0 for carried in capacities.values())
    if not reachable:
        capacities = {
            count: OUT_OF_REACH * known.throughput_rps(applied, count) for count in capacities
        }
    need_rps = demand.sized_rps(capacities[applied.instances])
    panic = demand.drain_s > policy.slo_s / 2
    if panic:  # what waits is evidence of a greater load: its mean counts, not its lower bound
        need_rps = max(need_rps, demand.fast_rps)
    needed = fewest(capacities, need_rps)
    sure_rps, likely_rps = demand.load_rps, max(demand.likely_rps, demand.stable_rps)
    if panic:  # more instances never hurt a backlog as long as they add capacity at all
        needed = max(needed, applied.instances)
        sure_rps, likely_rps = need_rps, max(likely_rps, capacities[needed])  # nor fewer enough

    def pays(loads: Loads, now_rps: float) -> int:
        counts = [fewest(capacities, now_rps)]
        for loaded_s, load_rps in loads:
            count = fewest(capacities, load_rps)
            if at_s - loaded_s < held_for_s(policy, capacities[count], load_s=load_s):
                counts.append(count)
        return max(counts)

    # What surely was needed is had; what may well have been is not given back.
    kept = min(applied.instances, pays(state.likely_loads, likely_rps))
    hold = max(pays(state.sure_loads, sure_rps), kept)
    goal = max(needed, _goal(state, applied, capacities, hold, policy))
    return Wanted(
        demand=demand,
        need_rps=need_rps,
        capacities=capacities,
        needed=needed,
        sure_rps=sure_rps,
        likely_rps=likely_rps,
        hold=hold,
        goal=goal,
        load_s=load_s,
        panic=panic,
        fresh=goal > applied.instances
        and _scale_up(state, demand, known, applied, goal, load_s=load_s, panic=panic).by_copy(),
        reachable=reachable,
    )


def held_for_s(policy: Policy, carried_rps: float, *, load_s: float) -> float:
    """For how long an instance is held that nobody needs.

    Until it has cost as much as the requests that come while it is loaded again: all of those are
    late, as they wait in one queue.

    Args:
        policy: its ``idle_cost``.
        carried_rps: what comes when it is needed again: Λ of its count.
        load_s: how long an instance takes to load.

    Example:
        100 late requests an instance-hour, 50 req/s, 3 s to load: 5 s · 50 = 250 late requests, as
        much as 2.5 hours idle.
    """
    if policy.idle_cost <= 0.0:
        return RECENT_S
    return HOUR_S * carried_rps * (load_s + SEEN_AND_DRAINED_S) / policy.idle_cost


def _goal(
    state: ControlState,
    applied: Settings,
    capacities: dict[int, float],
    hold: int,
    policy: Policy,
) -> int:
    """The instances to have, whatever the load of this moment."""
    if policy.idle_cost > 0.0:
        return hold  # a burst may end before its instances have loaded: the next one finds them
    enough_rps = RESERVE * state.peak_rps if MAX_INSTANCES in policy.unwritten else math.inf
    return max(applied.instances, fewest(capacities, enough_rps))


def _scale_up(
    state: ControlState,
    demand: Demand,
    known: Knowledge,
    applied: Settings,
    needed: int,
    *,
    load_s: float,
    panic: bool,
) -> ScaleUp:
    """The change from the applied count to the needed one, to see how it is made best."""
    before, after = applied.instances, max(needed, applied.instances)
    before_rps = known.throughput_rps(applied, before)
    return ScaleUp(
        rate_rps=demand.at_most_rps(before_rps, panic=panic),
        excess=demand.excess,
        before_rps=before_rps,
        after_rps=known.throughput_rps(applied, after),
        both_rps=known.throughput_rps(applied, before + after),
        share=after / (before + after),
        load_s=load_s,
        reload_s=state.reload_s(known.policy),
        slo_s=known.policy.slo_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the model of the queue says of the latency, in seconds."""

    mean_s: float
    p99_s: float


def expected(
    service: ServiceTime, settings: Settings, instances: int, rate_rps: float
) -> Expected | None:
    """Mean and p99 of the latency at this load; None where it cannot be said.

    Load and curve are rounded to 4 %, so that a table of earlier answers serves.
    """
    if not 0.0 < rate_rps < math.inf or service.of(1) <= 0:
        return None
    return _expected(
        service.rounded(ROUNDED),
        instances,
        settings.largest_batch,
        settings.max_queue_delay_s,
        round(math.log(rate_rps) / ROUNDED),
    )


ROUNDED = 0.04


@functools.lru_cache(maxsize=4096)
def _expected(
    service: ServiceTime, instances: int, largest_batch: int, delay_s: float, rate_step: int
) -> Expected:
    """The prediction behind ``expected``."""
    predicted = simulator.predict(
        math.exp(rate_step * ROUNDED),
        service,
        instances=instances,
        largest_batch=largest_batch,
        max_queue_delay_s=delay_s,
    )
    return Expected(mean_s=float(predicted.latency_s.mean()), p99_s=predicted.p99_s)
