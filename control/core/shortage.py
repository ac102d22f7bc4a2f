"""What an instance count was seen not to carry: the learnt curve does not overrule it.

The curve of one count is inferred from others where they were seen last: two MiniLM instances on
two cores look so slow that one seems to carry as much. So said two journals at 350 req/s: by what
one instance did it was too few (307/s, and a queue), a second was added, and 40 s later it was
taken away as one would carry 377/s, to be added again after 1 s of late requests. What was seen of
a count while it worked is better evidence, and stands as long as that of a change that failed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from control.core.types import Policy, Settings

if TYPE_CHECKING:
    from control.core.demand import Demand
    from control.core.state import ControlState
    from control.core.wanted import Wanted

STEADY = 1.2
"""The load has not grown where the newest rate is at most this many times that of the stable
window: in a climb or a jump the queue tells of the load, and not of the instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """One count that was too few.

    Attributes:
        settings: that were in force.
        carried_rps: the capacity is at most this.
        until_s: it holds so long.
    """

    settings: Settings
    carried_rps: float
    until_s: float

    def caps(self, settings: Settings, instances: int, *, at_s: float) -> bool:
        """Whether it says something of these settings at this count now."""
        batching = replace(self.settings, instances=settings.instances)
        few = instances <= self.settings.instances
        return at_s < self.until_s and few and batching == settings


def seen(
    state: ControlState, want: Wanted, applied: Settings, policy: Policy, *, at_s: float
) -> tuple[Shortage, ...]:
    """The shortages that hold, with that of the applied count, which is about to be raised.

    In a panic a steady load was too much, less the margin; else one that is surely more than Λ.
    """
    demand, capacity_rps = want.demand, want.capacities[applied.instances]
    kept = tuple(one for one in state.shortages if one.until_s > at_s)
    if want.panic:
        if not _is_steady(state, demand, applied, policy):
            return kept
        carried_rps = (1.0 - policy.margin_fraction) * max(demand.fast_rps, demand.stable_rps)
    elif demand.load_rps > capacity_rps and not _binds(kept, applied, capacity_rps, at_s=at_s):
        carried_rps = demand.load_rps
    else:  # raised for a burst that may come, or for what is known already
        return kept
    new = Shortage(settings=applied, carried_rps=carried_rps, until_s=at_s + policy.blocked_s)
    return (*(one for one in kept if one.settings != applied), new)


def capped(
    capacities: dict[int, float],
    shortages: tuple[Shortage, ...],
    settings: Settings,
    *,
    at_s: float,
) -> dict[int, float]:
    """Λ by instance count, nowhere more than what was seen not to be carried.

    Example:
        Two carry 400/s by the curve; they let a queue grow at 300/s, margin 10 %: 270/s.
    """
    for one in shortages:
        capacities = {
            count: min(rps, one.carried_rps) if one.caps(settings, count, at_s=at_s) else rps
            for count, rps in capacities.items()
        }
    return capacities


def _binds(
    shortages: tuple[Shortage, ...], applied: Settings, capacity_rps: float, *, at_s: float
) -> bool:
    """Whether the capacity is that of a shortage: it does not confirm itself."""
    return any(
        one.caps(applied, applied.instances, at_s=at_s) and one.carried_rps <= capacity_rps
        for one in shortages
    )


def _is_steady(state: ControlState, demand: Demand, applied: Settings, policy: Policy) -> bool:
    """Whether the queue began to grow under a steady load, and under these settings alone.

    What a change, an older copy or the start left in the queue says nothing of the settings.
    """
    if state.in_flight is not None or len(state.intervals) < 2 or demand.excess <= 0.0:
        return False
    before, newest = state.intervals[-2:]
    since_s = max(state.settings_since_s, state.safety.changed_s or 0.0)
    if before.start_s < since_s or before.instances != applied.instances or newest.old_copy_works:
        return False
    excess = max(0.0, before.pending - applied.largest_batch * applied.instances)
    if excess / demand.excess * demand.drain_s > policy.slo_s / 2:
        return False
    jumped = any(bound.new_up_to_rps > 0.0 for bound in demand.bounds)
    return not jumped and demand.fast_rps <= STEADY * demand.stable_rps
