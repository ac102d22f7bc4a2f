"""The count: more for the load and where it is free, fewer where an idle one has its price."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.facts import Facts, NeedFacts
from control.core.need.hold import held_for_s
from control.core.reasons import Reason
from control.core.types import Proposal

WAIT_FOR_SHARE_S = 10.0
"""So long those that hold more than their share of the budget may take to give it up."""
LEAST_LOOKS = 3
"""A time without need is made up by several looks, not by one long one."""


def propose(facts: Facts) -> Proposal | None:
    """More instances, fewer, or a hold that says why it must be one; None where the count fits."""
    need, applied = facts.need, facts.applied
    if need is None:
        return None
    want = need.want
    if want.goal > applied.instances and (facts.warm or want.panic):
        more = _more(facts, need)
        if more is not None:
            return more
    if not facts.warm:
        return Proposal(reason=Reason.HOLD_WARMING_UP, settings=applied)
    if want.overloaded or (want.panic and applied.instances >= max(want.capacities)):
        return Proposal(reason=Reason.AT_LIMIT, settings=applied)
    if want.goal < applied.instances and not want.panic and _was_idle(facts, need):
        return Proposal(reason=Reason.SCALE_DOWN, settings=replace(applied, instances=want.goal))
    return None


def steady(facts: Facts) -> Proposal:
    """The hold where nothing else is to be done."""
    assert facts.need is not None  # a model without a batch is held before
    want, reason = facts.need.want, Reason.HOLD_STEADY
    if facts.policy.idle_cost > 0.0 and min(want.needed, want.goal) < facts.applied.instances:
        reason = Reason.HOLD_QUIET_TIME
    elif not want.reachable:
        reason = Reason.AT_LIMIT
    return Proposal(reason=reason, settings=facts.applied)


def _more(facts: Facts, need: NeedFacts) -> Proposal | None:
    """The goal, or a hold until others have given up what is needed; None where it may wait."""
    want, applied = need.want, facts.applied
    short = want.needed > applied.instances
    if _waits_for_share(facts, need):
        return Proposal(reason=Reason.AT_LIMIT, settings=applied) if short else None
    reason = Reason.SCALE_UP_LOAD if short else Reason.SCALE_UP_RESERVE
    if want.panic:
        reason = Reason.SCALE_UP_BACKLOG
    return Proposal(reason=reason, settings=replace(applied, instances=want.goal), fresh=want.fresh)


def _waits_for_share(facts: Facts, need: NeedFacts) -> bool:
    """Whether the budget allows no more, or a part of a need that it may soon allow as a whole.

    A saturated model that grows by too little has that change in flight until its queue is empty.
    """
    cap, since_s = facts.seen.cap, facts.state.short_since_s
    if cap is None:
        return False
    if cap <= facts.applied.instances:
        return True
    if cap >= need.want.needed or since_s is None:
        return False
    return facts.seen.at_s - since_s < WAIT_FOR_SHARE_S


def _was_idle(facts: Facts, need: NeedFacts) -> bool:
    """Whether the count in force was watched for as long as its idle instances are held.

    Before the first look somebody may have needed them all.
    """
    want, at_s = need.want, facts.seen.at_s
    carried_rps = want.capacities[facts.applied.instances]
    held_s = held_for_s(need.known.policy, carried_rps, load_s=want.load_s)
    idle_s = (facts.applied.instances - want.goal) * (at_s - (facts.state.started_s or at_s))
    return idle_s >= held_s and facts.state.looks >= LEAST_LOOKS
