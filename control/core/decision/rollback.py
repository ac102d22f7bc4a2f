"""What comes before all else of a look: a freeze, an edit, a change to take back."""

from __future__ import annotations

from control.core.decision.facts import Facts
from control.core.reasons import Reason
from control.core.types import Observation, Proposal


def left_alone(facts: Facts) -> Proposal | None:
    """A hold for a model that a person froze or edited; None for any other."""
    reason = reason_to_leave(facts.seen)
    return Proposal(reason=reason, settings=facts.applied) if reason else None


def reason_to_leave(seen: Observation) -> Reason | None:
    """Why a person has to act before anything may change, whatever the rule; None where none has.

    Any change of ours would bring an edit into force, or overwrite it.
    """
    if seen.frozen:
        return Reason.HOLD_FROZEN
    return Reason.HOLD_EDITED if seen.edited else None


def propose(facts: Facts) -> Proposal | None:
    """A rollback that is due; None without one.

    Where the guard holds it (a change is in flight, the last rollback has just failed), what adds
    capacity may go on meanwhile.
    """
    back = facts.state.safety.rollback_of(facts.applied)
    if back is None:
        return None
    waiting = facts.seen.counters.pending if facts.seen.counters else 0.0
    return Proposal(
        reason=Reason.ROLLBACK,
        settings=back,
        # A model that never idles lets an in-place change of the count wait for many seconds.
        fresh=waiting > facts.applied.full_round,
        undo=True,
        or_next=True,
    )
