"""The guard: a proposal becomes what may be done now. It can only hold, clamp or slow down."""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core.decision.facts import Facts
from control.core.decision.limits import (
    again_s,
    has_failed,
    may_act_at_s,
    may_copy,
    was_worse,
    within_memory,
)
from control.core.reasons import Clamp, Reason
from control.core.types import Proposal, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What is left of a proposal.

    Attributes:
        settings: what may be applied.
        fresh: by a full reload even where an in-place update would do.
        clamps: what was changed, in order.
        may_act_at_s: when the next change is allowed.
    """

    settings: Settings
    fresh: bool
    clamps: tuple[Clamp, ...]
    may_act_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A proposal within its bounds, and the facts that it is held against."""

    wanted: Settings
    facts: Facts
    proposal: Proposal
    fresh: bool

    @property
    def applied(self) -> Settings:
        """What is in force."""
        return self.facts.applied

    @property
    def grows(self) -> bool:
        """Whether it only adds instances."""
        more = self.wanted.instances > self.applied.instances
        return more and self.wanted.same_but_count(self.applied)

    @property
    def adds_capacity(self) -> bool:
        """Whether it is meant to carry more."""
        meant = self.proposal.adds_capacity
        return self.grows if meant is None else meant

    @property
    def reload(self) -> bool:
        """Whether it takes a full reload whatever we wish."""
        return not self.wanted.in_place_of(self.applied)

    @property
    def copies(self) -> bool:
        """Whether all its instances are loaded beside the old ones: a reload, or a version."""
        return not self.wanted.same_but_count(self.applied)

    @property
    def may_burn(self) -> bool:
        """Whether it makes no request miss the SLO that would meet it otherwise.

        Where no count meets it, fewer instances meet it no less; of another batching that is not
        known.
        """
        shrinks = self.wanted.instances < self.applied.instances and not self.copies
        return self.adds_capacity or (shrinks and self._out_of_reach)

    @property
    def _out_of_reach(self) -> bool:
        """Whether no instance count keeps the SLO at any load."""
        return self.facts.need is not None and not self.facts.need.want.reachable

    @property
    def owed(self) -> bool:
        """Whether it only gives up what the budget has promised to others, who wait for it."""
        cap, count = self.facts.seen.cap, self.applied.instances
        if self.proposal.reason is Reason.OVER_BUDGET and self.wanted.instances == count:
            return True  # a version
        fewer = self.wanted.same_but_count(self.applied)
        return cap is not None and fewer and cap <= self.wanted.instances < count


def guard(proposal: Proposal, facts: Facts) -> Guarded:
    """What of the proposal may be done now.

    One that wanted a fresh copy is made in place when the hour's copies are spent, or where there
    is not enough memory for a second copy. After a change that Triton was not there for, nothing is
    tried for a cooldown, and twice as long after each further one. A change that gives others their
    share of the budget waits for no cooldown and no budget of changes.
    """
    state, applied, policy = facts.state, facts.applied, facts.policy
    clamps = list(proposal.clamps)
    wanted = _bounded(_probed(proposal, facts, clamps), facts, clamps)
    change = _Change(
        wanted=wanted,
        facts=facts,
        proposal=proposal,
        fresh=may_copy(proposal, wanted, facts, clamps),
    )
    ready_s = may_act_at_s(state, policy)
    held = None if wanted == applied else _held(change, ready_s=ready_s)
    if held is Clamp.BLOCKED and change.grows and (free := _fewer(change, ready_s=ready_s)):
        clamps.append(held)
        change, held = free, None
    wanted, fresh = applied, False
    if held is not None:
        clamps.append(held)
    elif change.wanted != applied:
        wanted, fresh = within_memory(facts, change.wanted, fresh=change.fresh, clamps=clamps)
    return Guarded(
        settings=wanted,
        fresh=fresh and wanted != applied,
        clamps=tuple(clamps),
        may_act_at_s=ready_s,
    )


def _probed(proposal: Proposal, facts: Facts, clamps: list[Clamp]) -> Settings:
    """The proposal with at most one instance more than may be acted upon; see ``Learnt``."""
    wanted, applied, need = proposal.settings, facts.applied, facts.need
    if need is None or proposal.undo or proposal.trusted:
        return wanted
    trusted = facts.state.learnt.trusted_up_to(facts.seen.threads, facts.policy.cores)
    if wanted.instances <= max(trusted, applied.instances):
        return wanted
    clamps.append(Clamp.PROBE)
    return replace(wanted, instances=max(trusted, applied.instances))


def _bounded(proposal: Settings, facts: Facts, clamps: list[Clamp]) -> Settings:
    """The proposal within the policy's bounds, the budget, and whole multiples.

    A hold passes as it is: bringing a count within its bounds is a decision with a reason of its
    own, not a side effect. The budget is above ``min_instances``: it is shared with other models.
    """
    applied, policy, cap = facts.applied, facts.policy, facts.seen.cap
    granularity, count = facts.seen.granularity, proposal.instances
    if proposal == applied:
        return proposal
    if count < policy.min_instances:
        count = policy.min_instances
        clamps.append(Clamp.MIN_INSTANCES)
    if count > policy.max_instances and count > applied.instances:
        count = max(policy.max_instances, applied.instances)
        clamps.append(Clamp.MAX_INSTANCES)
    if cap is not None and count > max(cap, 1) and count > applied.instances:
        count = max(cap, 1, applied.instances)
        clamps.append(Clamp.BUDGET)
    # Up to a whole multiple on the way up and on the way down: never fewer than were asked for,
    # but for the bounds.
    whole = -(-count // granularity) * granularity
    most = policy.max_instances if cap is None else min(policy.max_instances, cap)
    if whole > max(most, applied.instances, granularity):
        whole -= granularity
    return replace(proposal, instances=whole)


def _held(change: _Change, *, ready_s: float) -> Clamp | None:
    """Why the change must not happen now, or None when it may. The order is that of importance."""
    policy, state = change.facts.policy, change.facts.state
    if state.in_flight is not None:
        return Clamp.CHANGE_IN_FLIGHT
    if change.facts.seen.at_s < again_s(change.facts, undo=change.proposal.undo, ready_s=ready_s):
        return Clamp.COOLDOWN
    if change.proposal.undo or change.owed:  # others wait for what is owed
        return Clamp.BLOCKED if was_worse(change.facts, change.wanted) and not change.owed else None
    if was_worse(change.facts, change.wanted) or has_failed(change.facts, change.wanted):
        return Clamp.BLOCKED
    if change.facts.state.safety.burns and not change.may_burn:
        return Clamp.BURN_RATE
    if change.reload and state.planned_reloads >= policy.reloads_per_hour:
        return Clamp.RELOAD_BUDGET
    if len(state.changes) >= policy.changes_per_hour and not change.adds_capacity:
        return Clamp.CHANGE_BUDGET
    if (change.reload or not change.adds_capacity) and change.facts.seen.at_s < ready_s:
        return Clamp.COOLDOWN
    return None


def _fewer(change: _Change, *, ready_s: float) -> _Change | None:
    """The most instances below a blocked count that may be added; None where there are none.

    A server that died while four came up says nothing of three; who is short needs those.
    """
    granularity = change.facts.seen.granularity
    most, least = change.wanted.instances - granularity, change.applied.instances
    for count in range(most, least, -granularity):
        fewer = replace(change, wanted=replace(change.wanted, instances=count))
        if _held(fewer, ready_s=ready_s) is None:
            return fewer
    return None
