"""The guard: a proposal becomes what may be done now. It can only hold, clamp or slow down."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from control.core.decision.facts import Facts
from control.core.decision.proposal import Proposal
from control.core.judgement.safety import Block
from control.core.memory.state import Applied, ControlState
from control.core.types import Clamp, Policy, Reason, Settings

COPY_MARGIN = 1.2
"""A copy is expected to take this many times what one took so far."""
LEAST_WAIT_S = 1.0
"""After a first failure, where there is no cooldown."""
MOST_DOUBLED = 20
"""Times that the wait after a failure is doubled; it is far beyond any limit then."""


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
        """Whether it only gives up what the budget has promised to others."""
        if is_owed(self.wanted, self.applied, self.facts.seen.cap):
            return True
        gives = self.proposal.reason is Reason.OVER_BUDGET
        return gives and self.wanted.instances == self.applied.instances


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
        fresh=_may_copy(proposal, wanted, facts, clamps),
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
        wanted, fresh = _within_memory(change, clamps)
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


def _may_copy(proposal: Proposal, wanted: Settings, facts: Facts, clamps: list[Clamp]) -> bool:
    """Whether a second copy may be loaded where one is wanted."""
    if not proposal.fresh:
        return False
    if not proposal.undo and _copies_spent(facts.state, facts.policy):
        clamps.append(Clamp.RELOAD_BUDGET)
        return False
    cap, applied = facts.seen.cap, facts.applied
    grows = wanted.instances > applied.instances and wanted.same_but_count(applied)
    if grows and cap is not None and applied.instances + wanted.instances > cap:
        clamps.append(Clamp.BUDGET)  # no room for both copies
        return False
    return True


def may_act_at_s(state: ControlState, policy: Policy) -> float:
    """When the cooldown of the last change ends, or the wait for a Triton that was not there.

    0 without a change.
    """
    if not state.changes:
        return 0.0
    outage = itertools.takewhile(lambda change: change.unavailable, reversed(state.changes))
    return max(state.changes[-1].at_s + policy.cooldown_s, _retry_at_s(outage, policy))


def _retry_at_s(failures: Iterable[Applied], policy: Policy) -> float:
    """When to try again after failures in a row, the newest first; always without one.

    The wait is the cooldown, twice as long with each failure, up to the time of a block.
    """
    failed = tuple(failures)
    if not failed:
        return -math.inf
    first_s = max(policy.cooldown_s, LEAST_WAIT_S)
    doubled_s = first_s * 2.0 ** min(len(failed) - 1, MOST_DOUBLED)
    return failed[0].at_s + min(doubled_s, max(policy.blocked_s, first_s))


def is_owed(wanted: Settings, applied: Settings, cap: int | None) -> bool:
    """Whether the change does nothing but bring the count down towards the budget's cap."""
    if cap is None or not wanted.same_but_count(applied):
        return False
    return cap <= wanted.instances < applied.instances


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


def _copies_spent(state: ControlState, policy: Policy) -> bool:
    """Whether the hour's second copies for a change of the count are used up."""
    return sum(change.is_copy for change in state.changes) >= policy.copies_per_hour


def _held(change: _Change, *, ready_s: float) -> Clamp | None:
    """Why the change must not happen now, or None when it may. The order is that of importance."""
    policy, state = change.facts.policy, change.facts.state
    if state.in_flight is not None:
        return Clamp.CHANGE_IN_FLIGHT
    if change.facts.seen.at_s < _again_s(change, ready_s=ready_s):
        return Clamp.COOLDOWN
    if change.proposal.undo or change.owed:  # others wait for what is owed
        return Clamp.BLOCKED if _worse(change) and not change.owed else None
    if _worse(change) or _failed(change):
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


def _again_s(change: _Change, *, ready_s: float) -> float:
    """When anything may be tried after an outage of Triton, or a rollback after a failure."""
    changes = change.facts.state.changes
    if changes and changes[-1].unavailable:
        return ready_s
    if not change.proposal.undo:
        return -math.inf
    undone = (past for past in reversed(changes) if past.undo)
    failed = itertools.takewhile(lambda past: not past.ok, undone)
    again_s = _retry_at_s(failed, change.facts.policy)
    return max(again_s, ready_s) if changes and not changes[-1].ok else again_s


def _worse(change: _Change) -> bool:
    """Whether the target was judged worse, or taken back, a short while ago; more instances, too.

    What a rollback took back is known from the change itself, too, so that a controller that starts
    anew knows it from the journal.
    """
    at_s, policy = change.facts.seen.at_s, change.facts.policy
    for past in change.facts.state.changes:
        if not past.ok or not past.undo or past.before is None:
            continue
        worse, reload = past.before, not past.settings.same_but_count(past.before)
        if not reload and worse.instances > past.settings.instances:
            worse = replace(worse, instances=max(worse.instances, change.wanted.instances))
        block = Block(settings=worse, until_s=past.at_s + policy.blocked_s, reload=reload)
        if block.forbids(change.wanted, at_s=at_s):
            return True
    return change.facts.state.safety.forbids(change.wanted, at_s=at_s)


def _failed(change: _Change) -> bool:
    """Whether the target failed to load a short while ago; more instances do not load either."""
    at_s, policy = change.facts.seen.at_s, change.facts.policy
    for past in change.facts.state.changes:
        if at_s >= past.at_s + policy.blocked_s or past.ok or past.unavailable:
            continue
        failed = past.settings
        grew = past.before is not None and failed.instances > past.before.instances
        most = replace(failed, instances=max(failed.instances, change.wanted.instances))
        if change.wanted in ((failed, most) if grew else (failed,)):
            return True
    return False


def _within_memory(change: _Change, clamps: list[Clamp]) -> tuple[Settings, bool]:
    """What fits into the free memory, and whether by a fresh copy; what is unknown fits.

    A reload needs all its instances a second time, an in-place change only those added. Each of the
    versions has as many instances.
    """
    wanted, applied, seen = change.wanted, change.applied, change.facts.seen
    free, copy, granularity = seen.memory_free_bytes, seen.memory_copy_bytes, seen.granularity
    if free is None or copy is None or copy <= 0:
        return wanted, change.fresh
    fits, each = int(free // (COPY_MARGIN * copy)), len(wanted.loaded)
    if change.copies:
        if wanted.loads_beside(applied) <= fits:
            return wanted, change.fresh
        clamps.append(Clamp.MEMORY)
        return applied, False
    fresh = change.fresh
    if fresh and each * wanted.instances > fits:
        clamps.append(Clamp.MEMORY)
        fresh = False
    if fresh or wanted.loads_beside(applied) <= fits:
        return wanted, fresh
    if Clamp.MEMORY not in clamps:
        clamps.append(Clamp.MEMORY)
    count = applied.instances + fits // each // granularity * granularity
    return replace(wanted, instances=count), False
