"""Holds whatever the rule says: a look of no use, a person's word, sources that contradict."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision import rollback
from control.core.decision.limits import may_act_at_s
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Observation

_NOTHING_KNOWN = (Reason.HOLD_NO_DATA, Reason.HOLD_CONTRADICTED)


def obeying(decision: Decision, seen: Observation) -> Decision:
    """The decision; a hold that says so where a person froze the model or edited its file."""
    reason = rollback.reason_to_leave(seen)
    if reason is None or decision.reason in _NOTHING_KNOWN:
        return decision
    return replace(decision, reason=reason, desired=decision.applied, fresh=False)


def believed(decision: Decision, state: ControlState) -> Decision:
    """The decision; a hold where it shrinks on the word of one source that another contradicts."""
    desired, applied = decision.desired, decision.applied
    if desired is None or applied is None or desired.instances >= applied.instances:
        return decision
    if not state.agreement.doubtful or decision.reason is Reason.ROLLBACK:
        return decision
    newest = state.agreement.spans[-1]
    told = {
        "counters_rps": newest.counted / newest.span_s,
        "statistics_rps": newest.told / newest.span_s,
    }
    return replace(
        decision,
        reason=Reason.HOLD_CONTRADICTED,
        desired=applied,
        fresh=False,
        terms={**decision.terms, **told},
    )


def nothing_known(
    state: ControlState, seen: Observation, missing: tuple[str, ...], policy: Policy
) -> Decision:
    """A hold for a look that lacks something, or that says two things of the same requests."""
    told, broken = state.agreement, state.agreement.broken
    contradiction = {"counters_rps": told.counted_rps, "statistics_rps": told.told_rps}
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=Reason.HOLD_CONTRADICTED if broken else Reason.HOLD_NO_DATA,
        applied=seen.applied,
        desired=seen.applied,
        terms=contradiction if broken else {"missing": float(len(missing))},
        may_act_at_s=may_act_at_s(state, policy),
    )


def no_data(seen: Observation) -> Decision:
    """A hold for a look that cannot be used."""
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=Reason.HOLD_NO_DATA,
        applied=seen.applied,
        desired=seen.applied,
        terms={"unusable": 1.0},
    )
