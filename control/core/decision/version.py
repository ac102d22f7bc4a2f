"""Another version of the model is proposed where it should serve."""

from __future__ import annotations

from control.core.decision.facts import Facts
from control.core.types import Proposal


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
