"""What was tried before: until when to wait after it, and what is not tried again for a while."""

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
from control.core.types import Settings

LEAST_WAIT_S = 1.0
"""After a first failure, where there is no cooldown."""
MOST_DOUBLED = 20
"""Times that the wait after a failure is doubled; it is far beyond any limit then."""


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
