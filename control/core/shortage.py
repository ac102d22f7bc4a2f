"""What an instance count was seen not to carry: the learnt curve does not overrule it.

The curve of one count is inferred from others where they were seen last: two MiniLM instances on
two cores look so slow that one seems to carry as much. So said a journal at 353 req/s: a second
instance was taken away as one would carry 377/s, and added again after 1 s of late requests. So a
count that was gone down to, and had to be left again under a steady load, is not gone back to at
that load for as long as a failed change is blocked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from control.core.types import Policy, Settings

if TYPE_CHECKING:
    from control.core.demand import Demand
    from control.core.state import ControlState
    from control.core.wanted import Wanted

SOON_S = 60.0
"""A count that carried the load for this long was not too few for it."""
STEADY = 1.2
"""The load has not grown where the newest rate is at most this many times that of the stable
window: in a climb or a jump the need tells of the load, and not of the instances."""


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

    In a panic the load was too much, less the margin; else one that is surely more than Λ.
    """
    demand, capacity_rps = want.demand, want.capacities[applied.instances]
    kept = tuple(one for one in state.shortages if one.until_s > at_s)
    if not _is_steady(demand) or not _was_lowered(state, applied, at_s=at_s):
        return kept
    if want.panic:
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


def _was_lowered(state: ControlState, applied: Settings, *, at_s: float) -> bool:
    """Whether the count in force was gone down to a short while ago."""
    if not state.changes:
        return False
    last = state.changes[-1]
    if not last.ok or last.before is None or last.settings != applied:
        return False
    fewer = applied.instances < last.before.instances
    return fewer and at_s <= last.at_s + SOON_S


def _is_steady(demand: Demand) -> bool:
    """Whether the load is no other than before."""
    jumped = any(bound.jumped for bound in demand.bounds)
    return not jumped and demand.fast_rps <= STEADY * demand.stable_rps


def _binds(
    shortages: tuple[Shortage, ...], applied: Settings, capacity_rps: float, *, at_s: float
) -> bool:
    """Whether the capacity is that of a shortage: it does not confirm itself."""
    return any(
        one.caps(applied, applied.instances, at_s=at_s) and one.carried_rps <= capacity_rps
        for one in shortages
    )
