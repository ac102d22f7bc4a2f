"""What of a change the room allows: the hour's second copies, the budget, the free memory."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp
from control.core.types import Proposal, Settings

COPY_MARGIN = 1.2
"""A copy is expected to take this many times what one took so far."""


def may_copy(proposal: Proposal, wanted: Settings, facts: Facts, clamps: list[Clamp]) -> bool:
    """Whether a second copy may be loaded where one is wanted."""
    if not proposal.fresh:
        return False
    if not proposal.undo and _copies_spent(facts.state, facts.policy):
        clamps.append(Clamp.RELOAD_BUDGET)
        return False
    cap, applied = facts.seen.cap, facts.applied
    grows = wanted.instances > applied.instances and wanted.same_but_count(applied)
    if grows and cap is not None and applied.instances + wanted.instances > cap:
        clamps.append(Clamp.BUDGET)  # no room for both copies
        return False
    return True


def _copies_spent(state: ControlState, policy: Policy) -> bool:
    """Whether the hour's second copies for a change of the count are used up."""
    return sum(change.is_copy for change in state.changes) >= policy.copies_per_hour


def within_memory(
    facts: Facts, wanted: Settings, *, fresh: bool, clamps: list[Clamp]
) -> tuple[Settings, bool]:
    """What fits into the free memory, and whether by a fresh copy; what is unknown fits.

    A reload needs all its instances a second time, an in-place change only those added. Each of the
    versions has as many instances.
    """
    applied, seen = facts.applied, facts.seen
    free, copy, granularity = seen.memory_free_bytes, seen.memory_copy_bytes, seen.granularity
    if free is None or copy is None or copy <= 0:
        return wanted, fresh
    fits, each = int(free // (COPY_MARGIN * copy)), len(wanted.loaded)
    if not wanted.same_but_count(applied):  # all its instances are loaded beside the old ones
        if wanted.loads_beside(applied) <= fits:
            return wanted, fresh
        clamps.append(Clamp.MEMORY)
        return applied, False
    if fresh and each * wanted.instances > fits:
        clamps.append(Clamp.MEMORY)
        fresh = False
    if fresh or wanted.loads_beside(applied) <= fits:
        return wanted, fresh
    if Clamp.MEMORY not in clamps:
        clamps.append(Clamp.MEMORY)
    count = applied.instances + fits // each // granularity * granularity
    return replace(wanted, instances=count), False
