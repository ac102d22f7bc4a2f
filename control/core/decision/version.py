"""Another version of the model is proposed where it should serve."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.reasons import Reason
from control.core.service.versions import allowed, served
from control.core.types import Proposal


def give(facts: Facts) -> Proposal | None:
    """A version, or one that stands by, is given up where others make more of its memory.

    It waits for no cooldown.
    """
    applied, order, now = facts.applied, facts.policy.versions, served(facts.seen)
    best = allowed(facts.seen, facts.policy)
    if best is None or now not in order or not facts.warm:
        return None
    if order.index(best) > order.index(now):
        given = replace(applied, version=best, standby=())
    else:
        standby = tuple(v for v in applied.standby if v in (facts.seen.may_load or ()))
        if standby == applied.standby:
            return None
        given = replace(applied, version=now, standby=standby)
    return Proposal(reason=Reason.OVER_BUDGET, settings=given, or_next=True)


def drop(facts: Facts) -> Proposal | None:
    """A better version is dropped, and the one that stands by answers: nothing is loaded."""
    proposal = propose(facts)
    if proposal is None or not proposal.adds_capacity:
        return None
    return proposal if proposal.settings.loads_beside(facts.applied) == 0 else None


def propose(facts: Facts) -> Proposal | None:
    """The version that ``model_version`` found; not before a stable window, but in a panic."""
    need = facts.need
    if need is None or need.versions.change is None or not (facts.warm or need.want.panic):
        return None
    change = need.versions.change
    return Proposal(
        reason=change.reason,
        settings=change.settings,
        adds_capacity=change.adds_capacity,
        or_next=True,
    )
