"""What limits a change: what was tried before it, and the room that there is.

Room is what is left of the hour's second copies, of the budget and of the free memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.judgement.safety import Block
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp
from control.core.types import Proposal, Settings

LEAST_WAIT_S = 1.0
"""After a first failure, where there is no cooldown."""
MOST_DOUBLED = 20
"""Times that the wait after a failure is doubled; it is far beyond any limit then."""
COPY_MARGIN = 1.2
"""A copy is expected to take this many times what one took so far."""


def may_act_at_s(state: ControlState, policy: Policy) -> float:
    """When the cooldown of the last change ends, or the wait for a Triton that was not there.

    0 without a change.
    """
    if not state.changes:
        return 0.0
    outage = itertools.takewhile(lambda change: change.unavailable, reversed(state.changes))
    return max(state.changes[-1].at_s + policy.cooldown_s, _retry_at_s(outage, policy))


def _retry_at_s(failures: Iterable[Applied], policy: Policy) -> float:
    """When to try again after failures in a row, the newest first; always without one.

    The wait is the cooldown, twice as long with each failure, up to the time of a block.
    """
    failed = tuple(failures)
    if not failed:
        return -math.inf
    first_s = max(policy.cooldown_s, LEAST_WAIT_S)
    doubled_s = first_s * 2.0 ** min(len(failed) - 1, MOST_DOUBLED)
    return failed[0].at_s + min(doubled_s, max(policy.blocked_s, first_s))


def again_s(facts: Facts, *, undo: bool, ready_s: float) -> float:
    """When anything may be tried after an outage of Triton, or a rollback after a failure."""
    changes = facts.state.changes
    if changes and changes[-1].unavailable:
        return ready_s
    if not undo:
        return -math.inf
    undone = (past for past in reversed(changes) if past.undo)
    failed = itertools.takewhile(lambda past: not past.ok, undone)
    retry_s = _retry_at_s(failed, facts.policy)
    return max(retry_s, ready_s) if changes and not changes[-1].ok else retry_s


def was_worse(facts: Facts, wanted: Settings) -> bool:
    """Whether the target was judged worse, or taken back, a short while ago; more instances, too.

    What a rollback took back is known from the change itself, too, so that a controller that starts
    anew knows it from the journal.
    """
    at_s, policy = facts.seen.at_s, facts.policy
    for past in facts.state.changes:
        if not past.ok or not past.undo or past.before is None:
            continue
        worse, reload = past.before, not past.settings.same_but_count(past.before)
        if not reload and worse.instances > past.settings.instances:
            worse = replace(worse, instances=max(worse.instances, wanted.instances))
        block = Block(settings=worse, until_s=past.at_s + policy.blocked_s, reload=reload)
        if block.forbids(wanted, at_s=at_s):
            return True
    return facts.state.safety.forbids(wanted, at_s=at_s)


def has_failed(facts: Facts, wanted: Settings) -> bool:
    """Whether the target failed to load a short while ago; more instances do not load either."""
    at_s, policy = facts.seen.at_s, facts.policy
    for past in facts.state.changes:
        if at_s >= past.at_s + policy.blocked_s or past.ok or past.unavailable:
            continue
        failed = past.settings
        grew = past.before is not None and failed.instances > past.before.instances
        most = replace(failed, instances=max(failed.instances, wanted.instances))
        if wanted in ((failed, most) if grew else (failed,)):
            return True
    return False


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
