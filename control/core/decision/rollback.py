"""What comes before all else of a look: a freeze, an edit, a change to take back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from control.core.decision.guard import guard, may_act_at_s
from control.core.judgement.judge import Verdict
from control.core.memory.state import ControlState
from control.core.types import Decision, Observation, Policy, Reason, Settings


def first(state: ControlState, seen: Observation, policy: Policy) -> Decision | None:
    """A hold for a model that a person froze or edited, or a rollback that is due; else None.

    A rollback that the guard holds (a change is in flight, the last rollback has just failed) is
    None, too: what adds capacity may go on meanwhile. To be asked once it is known that the look
    has all its parts.
    """
    applied = seen.applied
    if applied is None:
        return None
    if reason := left_alone(seen):
        return _decision(state, seen, policy, reason, applied)
    back = state.safety.rollback_of(applied)
    if back is None:
        return None
    waiting = seen.counters.pending if seen.counters else 0.0
    guarded = guard(
        back,
        applied,
        state,
        policy,
        at_s=seen.at_s,
        # A model that never idles lets an in-place change of the count wait for many seconds.
        fresh=waiting > applied.full_round,
        granularity=seen.granularity,
        seen=seen,
        safety=state.safety,
        undo=True,
    )
    if guarded.settings == applied:
        return None
    decision = _decision(state, seen, policy, Reason.ROLLBACK, guarded.settings)
    return replace(decision, fresh=guarded.fresh, clamps=guarded.clamps)


def left_alone(seen: Observation) -> Reason | None:
    """Why a person has to act before anything may change, whatever the rule; None where none has.

    Any change of ours would bring an edit into force, or overwrite it.
    """
    if seen.frozen:
        return Reason.HOLD_FROZEN
    return Reason.HOLD_EDITED if seen.edited else None


def terms(state: ControlState) -> Mapping[str, float]:
    """The guard's own numbers of this look, for ``Decision.terms``."""
    safety = state.safety
    return {
        "correction": safety.correction.factor,
        "budget_burns": float(safety.burns),
        "watching": float(safety.watch is not None),
        "judged_worse": float(safety.verdict is Verdict.WORSE),
    }


def _decision(
    state: ControlState, seen: Observation, policy: Policy, reason: Reason, desired: Settings
) -> Decision:
    """A decision of this look without a clamp."""
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=seen.applied,
        desired=desired,
        terms=terms(state),
        may_act_at_s=may_act_at_s(state, policy),
    )
