"""The guard, asked about settings: for tests that know of no proposer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core.decision import rollback
from control.core.decision.facts import Facts, NeedFacts
from control.core.decision.guard import Guarded, guard
from control.core.judgement.safety import Safety
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from control.core.types import Observation, Proposal, Settings


def facts_of(
    applied: Settings,
    state: ControlState | None = None,
    policy: Policy | None = None,
    *,
    at_s: float,
    seen: Observation | None = None,
    granularity: int = 1,
) -> Facts:
    """Facts without a load."""
    look = seen or Observation(
        at_s=at_s, tick_id="t", counters=None, statistics=None, applied=applied
    )
    look = replace(look, at_s=at_s, granularity=granularity)
    return Facts(
        state=state or ControlState(),
        seen=look,
        applied=applied,
        policy=policy or Policy(slo_s=0.05),
    )


def guarded(
    wanted: Settings,
    applied: Settings,
    state: ControlState,
    policy: Policy,
    *,
    at_s: float,
    fresh: bool = False,
    granularity: int = 1,
    seen: Observation | None = None,
    safety: Safety | None = None,
    undo: bool = False,
    adds_capacity: bool | None = None,
    need: NeedFacts | None = None,
) -> Guarded:
    """What the guard makes of a proposal."""
    if safety is not None:
        state = replace(state, safety=safety)
    facts = facts_of(applied, state, policy, at_s=at_s, seen=seen, granularity=granularity)
    facts = replace(facts, need=need)
    proposal = Proposal(
        reason=Reason.ROLLBACK if undo else Reason.SCALE_UP_LOAD,
        settings=wanted,
        fresh=fresh,
        undo=undo,
        adds_capacity=adds_capacity,
    )
    return guard(proposal, facts)


@dataclass(frozen=True)
class First:
    """What comes before all else of a look."""

    reason: Reason
    applied: Settings
    desired: Settings
    clamps: tuple[Clamp, ...]

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.applied != self.desired


def first(state: ControlState, seen: Observation, policy: Policy) -> First | None:
    """A freeze, an edit or a rollback that is due, as ``decide`` asks for them; None without."""
    assert seen.applied is not None
    facts = replace(facts_of(seen.applied, state, policy, at_s=seen.at_s), seen=seen)
    for propose in (rollback.left_alone, rollback.propose):
        proposal = propose(facts)
        if proposal is None:
            continue
        left = guard(proposal, facts)
        if left.settings != seen.applied or not proposal.or_next:
            return First(proposal.reason, seen.applied, left.settings, left.clamps)
    return None
