"""What the load calls for: the capacity that is needed, and the instances to have.

Theory of operation. Where idle instances cost nothing, the goal is the most that still add
capacity: nobody else has a use for them, and each is room for a load that nobody foresaw. Where the
owner named no most, they are added up to ``RESERVE`` times the highest load on record. Nothing is
given up for quiet.
Where the policy has an ``idle_cost``, instances are held until what they cost while nobody needed
them equals what loading them again would cost in late requests. This is the break-even rule of ski
rental (Karlin et al., *Competitive Randomized Algorithms for Nonuniform Problems*, 1994, the
deterministic case): at most twice the best release times in hindsight where the same count is
needed again. ``conch perf bench hindsight`` measures it.
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
        called_rps: the load that is remembered: what instances were needed for.
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
    called_rps: float
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
            load_s=self.load_s,
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
    if panic:  # more instances never hurt a backlog as long as they add capacity at all
        needed = max(needed, applied.instances)
    called_rps = need_rps
    if panic or needed > applied.instances:
        called_rps = _only_rps(capacities, needed)
    loads = (*state.loads, (at_s, called_rps))
    hold = _hold(loads, capacities, policy, load_s=load_s)
    goal = max(needed, _goal(state, applied, capacities, hold, policy))
    return Wanted(
        demand=demand,
        need_rps=need_rps,
        capacities=capacities,
        needed=needed,
        called_rps=called_rps,
        hold=hold,
        goal=goal,
        load_s=load_s,
        panic=panic,
        fresh=goal > applied.instances
        and _scale_up(state, demand, known, applied, goal, load_s=load_s, panic=panic).by_copy(),
        reachable=reachable,
    )


def _hold(loads: Loads, capacities: dict[int, float], policy: Policy, *, load_s: float) -> int:
    """The most instances that were needed while holding them was the cheaper way.

    Each count is held until all idle instances up to it have cost as much as loading it again: a
    jump by three instances is late once, and three that wait for it cost three times as much.
    """
    at_s, called_rps = loads[-1]
    hold = reached = fewest(capacities, called_rps)
    idle_s = 0.0
    for loaded_s, load_rps in reversed(loads):
        count = fewest(capacities, load_rps)
        if count > reached:
            idle_s += (count - reached) * (at_s - loaded_s)
            reached = count
            spent_s = idle_s if policy.idle_cost > 0.0 else at_s - loaded_s
            if spent_s < held_for_s(policy, capacities[count], load_s=load_s):
                hold = count
    return hold


def _only_rps(capacities: dict[int, float], count: int) -> float:
    """A load that this count carries and fewer do not, whatever is learnt of them next: halfway."""
    fewer_rps = max((rps for fewer, rps in capacities.items() if fewer < count), default=0.0)
    return (fewer_rps + capacities[count]) / 2


def held_for_s(policy: Policy, carried_rps: float, *, load_s: float) -> float:
    """For how many instance-seconds instances are held that nobody needs.

    Until they have cost as much as the requests that come while they are loaded again: all of
    those are late, as they wait in one queue, however many instances load side by side.

    Args:
        policy: its ``idle_cost``.
        carried_rps: what comes when they are needed again: Λ of the count that they make up.
        load_s: how long an instance takes to load.

    Example:
        100 late requests an instance-hour, 50 req/s, 3 s to load: 5 s · 50 = 250 late requests, as
        much as one instance idle for 2.5 hours.
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
