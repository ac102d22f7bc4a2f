"""The response cache is proposed to be switched in good health, where its hits say so."""

from __future__ import annotations

from control.core.decision.facts import Facts
from control.core.need import cached
from control.core.reasons import Reason
from control.core.types import Proposal


def propose(facts: Facts) -> Proposal | None:
    """The cache on or off; None where it stays as it is."""
    need = facts.need
    if need is None or not need.want.reachable:
        return None
    switched = cached.switched(facts.state, facts.seen, facts.applied, need.want, need.known)
    if switched is None:
        return None
    return Proposal(reason=Reason.CACHE_SWITCH, settings=switched)
