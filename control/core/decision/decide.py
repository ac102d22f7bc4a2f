"""One look becomes a decision: the first proposer that speaks, and one guard.

Theory of operation. ``facts.gather`` works out what follows from the look. ``PROPOSERS`` are asked
in the order of their importance, and the first that has something to say wins; a hold is a proposal
like any other. ``guard`` makes of it what may be done now. The numbers for people (``terms``) come
last: no decision reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from control.core.decision import (
    bounds,
    holds,
    instances,
    rebatch,
    response_cache,
    rollback,
    version,
)
from control.core.decision.facts import Facts, gather
from control.core.decision.guard import guard
from control.core.decision.terms import terms_of
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Observation, Proposal

PROPOSERS: tuple[Callable[[Facts], Proposal | None], ...] = (
    rollback.left_alone,
    rollback.propose,
    bounds.propose,
    version.give,
    bounds.idle,
    bounds.share,
    version.drop,
    rebatch.propose,
    version.propose,
    instances.propose,
    response_cache.propose,
    instances.steady,
)
"""First that speaks wins."""
OWED = (Reason.OVER_BUDGET, Reason.OUT_OF_BOUNDS)
"""What policy or budget force may be worse for the model, and is nobody's fault."""


def decide(state: ControlState, seen: Observation, policy: Policy) -> tuple[Decision, ControlState]:
    """The decision for this look, and the memory for the next one. Pure."""
    state, facts, missing = gather(state, seen, policy)
    if facts is None:
        return holds.nothing_known(state, seen, missing, policy), state
    for propose in PROPOSERS:
        proposal = propose(facts)
        if proposal is None:
            continue
        guarded = guard(proposal, facts)
        if guarded.settings != facts.applied or not proposal.or_next:
            break
    assert proposal is not None  # the last one always speaks
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=proposal.reason,
        applied=facts.applied,
        desired=guarded.settings,
        fresh=guarded.fresh,
        need=facts.need.told if facts.need else None,
        clamps=guarded.clamps,
        may_act_at_s=guarded.may_act_at_s,
    )
    decision = replace(decision, terms=terms_of(facts, proposal))
    if decision.changes and not proposal.undo:
        owed = decision.desired if proposal.reason in OWED else None
        state = replace(state, safety=replace(state.safety, owed=owed))
    return decision, state


@dataclass(frozen=True, slots=True, kw_only=True)
class Conch:
    """Conch's own rule: learn the queue, predict before acting, and be held by a guard."""

    name: str = "conch"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """See ``decide``."""
        return decide(state, seen, policy)
