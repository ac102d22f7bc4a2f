"""What the load calls for: the capacity that is needed, and the instances to have.

Theory of operation. Where idle instances cost nothing, the goal is the most that still add
capacity: nobody else has a use for them, and each is room for a load that nobody foresaw. Where the
owner named no most, they are added up to ``RESERVE`` times the highest load on record. Nothing is
given up for quiet.
Where the policy has an ``idle_cost``, they are held for as long as ``hold`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from control.core.load.demand import Demand
from control.core.memory.state import ControlState
from control.core.need import second_copy
from control.core.need.hold import held
from control.core.policy import MAX_INSTANCES, Policy
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.types import Need, Settings

RESERVE = 2.0
"""Capacity as a multiple of the highest load on record; more is worth nothing."""
OUT_OF_REACH = 0.5
"""Where no count keeps the SLO, instances are counted by this share of their throughput: the queue
must not grow."""


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
    hold = held(loads, capacities, policy, load_s=load_s)
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
        and second_copy.scale_up(
            state, demand, known, applied, goal, load_s=load_s, panic=panic
        ).by_copy(),
        reachable=reachable,
    )


def _only_rps(capacities: dict[int, float], count: int) -> float:
    """A load that this count carries and fewer do not, whatever is learnt of them next: halfway."""
    fewer_rps = max((rps for fewer, rps in capacities.items() if fewer < count), default=0.0)
    return (fewer_rps + capacities[count]) / 2


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
