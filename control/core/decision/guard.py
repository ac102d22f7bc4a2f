"""The guard: a proposal becomes what may be done now. It can only hold, clamp or slow down."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from control.core.judgement import correction
from control.core.judgement.safety import Block, Safety
from control.core.memory.state import Applied, ControlState
from control.core.queue_model.knowledge import Knowledge
from control.core.types import Clamp, Observation, Policy, Settings

COPY_MARGIN = 1.2
"""A copy is expected to take this many times what one took so far."""
STEP_DOWN = 0.5
"""Of the instances, at most this share goes in one step, at least one: what fewer carry is a
prediction."""
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
class _Proposal:
    """A proposal and all that it is held against."""

    wanted: Settings
    applied: Settings
    state: ControlState
    safety: Safety
    policy: Policy
    seen: Observation | None
    at_s: float
    undo: bool
    adds_capacity: bool
    fresh: bool
    out_of_reach: bool

    @property
    def reload(self) -> bool:
        """Whether it takes a full reload whatever we wish."""
        return not self.wanted.same_but_count(replace(self.applied, version=self.wanted.version))

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
        return self.adds_capacity or (self.out_of_reach and shrinks)

    @property
    def owed(self) -> bool:
        """Whether it only gives up what the budget has promised to others."""
        return is_owed(self.wanted, self.applied, self.seen)


def guard(
    proposal: Settings,
    applied: Settings,
    state: ControlState,
    policy: Policy,
    *,
    at_s: float,
    fresh: bool = False,
    granularity: int = 1,
    seen: Observation | None = None,
    safety: Safety = Safety(),  # noqa: B008  # a frozen value
    undo: bool = False,
    adds_capacity: bool | None = None,
    out_of_reach: bool = False,
) -> Guarded:
    """Clamp ``proposal`` to what may be done now.

    Args:
        proposal, applied: what is wanted, and what is in force.
        state: its changes of the last hour, and the one in flight.
        policy: the bounds.
        at_s: now.
        fresh: whether a full reload is wanted where an in-place update would do.
        granularity: instances come in multiples of this.
        seen: the look, for the budget's cap, the free memory and a freeze; None knows of none.
        safety: what was judged worse, and whether the error budget burns.
        undo: whether this is a rollback. It waits for no cooldown and no budget of reloads or
            changes, may take any step down, and passes while the error budget burns. One that
            failed waits twice as long before each further try. None goes back to what was taken
            back itself.
            A change that gives others their share of the budget waits for neither, too.
        adds_capacity: whether the change is meant to carry more; None for "if it has more
            instances". Such a change waits for no cooldown and no budget of changes: it only costs
            money, and waiting costs the SLO.
        out_of_reach: whether no instance count keeps the SLO: a smaller one then passes while the
            error budget burns, as it can not make that worse.

    One that wanted a fresh copy is made in place when the hour's copies are spent, or where there
    is not enough memory for a second copy. After a change that Triton was not there for, nothing is
    tried for a cooldown, and twice as long after each further one.
    """
    clamps: list[Clamp] = []
    cap = seen.cap if seen is not None else None
    wanted = _bounded(proposal, applied, policy, clamps, granularity, cap=cap, undo=undo)
    if fresh and not undo and _copies_spent(state, policy):
        clamps.append(Clamp.RELOAD_BUDGET)
        fresh = False
    grows = wanted.instances > applied.instances and wanted.same_but_count(applied)
    if fresh and grows and cap is not None and applied.instances + wanted.instances > cap:
        clamps.append(Clamp.BUDGET)  # no room for both copies
        fresh = False
    ready_s = may_act_at_s(state, policy)
    full = _Proposal(
        wanted=wanted,
        applied=applied,
        state=state,
        safety=safety,
        policy=policy,
        seen=seen,
        at_s=at_s,
        undo=undo,
        adds_capacity=grows if adds_capacity is None else adds_capacity,
        fresh=fresh,
        out_of_reach=out_of_reach,
    )
    held = None if wanted == applied else _held(full, ready_s=ready_s)
    if held is Clamp.BLOCKED and grows and (free := _fewer(full, granularity, ready_s=ready_s)):
        clamps.append(held)
        full, held, wanted = free, None, free.wanted
    if held is not None:
        clamps.append(held)
        wanted = applied
    elif wanted != applied:
        wanted, fresh = _within_memory(full, granularity, clamps)
    return Guarded(
        settings=wanted,
        fresh=fresh and wanted != applied,
        clamps=tuple(clamps),
        may_act_at_s=ready_s,
    )


def no_count_helps(applied: Settings, known: Knowledge, policy: Policy) -> bool:
    """Whether no instance count keeps the SLO at any load, by the lowest correction κ either.

    κ goes up and down: with a count that is out of reach now and within it a minute later, a scale
    down would be taken back as often.

    Args:
        applied: the batching.
        known: service times.
        policy: its SLO is not yet corrected.
    """
    lowest = replace(known, policy=replace(policy, slo_s=policy.slo_s / correction.LOW))
    return not any(carried > 0 for carried in lowest.capacities(applied).values())


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


def is_owed(wanted: Settings, applied: Settings, seen: Observation | None) -> bool:
    """Whether the change does nothing but bring the count down towards the budget's cap."""
    cap = seen.cap if seen is not None else None
    if cap is None or not wanted.same_but_count(applied):
        return False
    return cap <= wanted.instances < applied.instances


def _bounded(
    proposal: Settings,
    applied: Settings,
    policy: Policy,
    clamps: list[Clamp],
    granularity: int,
    *,
    cap: int | None,
    undo: bool,
) -> Settings:
    """The proposal within the policy's bounds, the budget, a step down, and whole multiples.

    A hold passes as it is: bringing a count within its bounds is a decision with a reason of its
    own, not a side effect. The budget is above ``min_instances``: it is shared with other models.
    """
    count = proposal.instances
    if count == applied.instances:
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
    step = max(granularity, math.floor(applied.instances * STEP_DOWN))
    owed = cap is not None and applied.instances > cap and count >= cap
    if applied.instances - count > step and not undo and not owed:
        count = applied.instances - step
        clamps.append(Clamp.STEP_DOWN)
    # Up to a whole multiple on the way up and on the way down: never fewer than were asked for,
    # but for the bounds.
    whole = -(-count // granularity) * granularity
    most = policy.max_instances if cap is None else min(policy.max_instances, cap)
    if whole > max(most, applied.instances, granularity):
        whole -= granularity
    return replace(proposal, instances=whole)


def planned_reloads(state: ControlState) -> int:
    """Reloads of the last hour that changed more than the instance count."""
    return sum(change.reload and not _is_copy(change) for change in state.changes)


def _reloads_spent(state: ControlState, policy: Policy) -> bool:
    """Whether the hour's planned reloads are used up."""
    return planned_reloads(state) >= policy.reloads_per_hour


def _copies_spent(state: ControlState, policy: Policy) -> bool:
    """Whether the hour's second copies for a change of the count are used up."""
    return sum(_is_copy(change) for change in state.changes) >= policy.copies_per_hour


def _is_copy(change: Applied) -> bool:
    """Whether it was a reload for nothing but another count; one of unknown origin is planned."""
    if change.before is None:
        return False
    return change.reload and change.settings.same_but_count(change.before)


def _held(full: _Proposal, *, ready_s: float) -> Clamp | None:
    """Why the change must not happen now, or None when it may. The order is that of importance."""
    policy, state = full.policy, full.state
    if full.seen is not None and full.seen.frozen:
        return Clamp.FROZEN
    if state.in_flight is not None:
        return Clamp.CHANGE_IN_FLIGHT
    if full.at_s < _again_s(full, ready_s=ready_s):
        return Clamp.COOLDOWN
    if full.undo or full.owed:  # others wait for what is owed
        return Clamp.BLOCKED if _worse(full) and not full.owed else None
    if _worse(full) or _failed(full):
        return Clamp.BLOCKED
    if full.safety.burns and not full.may_burn:
        return Clamp.BURN_RATE
    if full.reload and _reloads_spent(state, policy):
        return Clamp.RELOAD_BUDGET
    if len(state.changes) >= policy.changes_per_hour and not full.adds_capacity:
        return Clamp.CHANGE_BUDGET
    if (full.reload or not full.adds_capacity) and full.at_s < ready_s:
        return Clamp.COOLDOWN
    return None


def _fewer(full: _Proposal, granularity: int, *, ready_s: float) -> _Proposal | None:
    """The most instances below a blocked count that may be added; None where there are none.

    A server that died while four came up says nothing of three; who is short needs those.
    """
    for count in range(full.wanted.instances - granularity, full.applied.instances, -granularity):
        fewer = replace(full, wanted=replace(full.wanted, instances=count))
        if _held(fewer, ready_s=ready_s) is None:
            return fewer
    return None


def _again_s(full: _Proposal, *, ready_s: float) -> float:
    """When anything may be tried after an outage of Triton, or a rollback after a failure."""
    changes = full.state.changes
    if changes and changes[-1].unavailable:
        return ready_s
    if not full.undo:
        return -math.inf
    undone = (change for change in reversed(changes) if change.undo)
    failed = itertools.takewhile(lambda change: not change.ok, undone)
    again_s = _retry_at_s(failed, full.policy)
    return max(again_s, ready_s) if changes and not changes[-1].ok else again_s


def _worse(full: _Proposal) -> bool:
    """Whether the target was judged worse, or taken back, a short while ago; more instances, too.

    What a rollback took back is known from the change itself, too, so that a controller that starts
    anew knows it from the journal.
    """
    for change in full.state.changes:
        if not change.ok or not change.undo or change.before is None:
            continue
        worse, reload = change.before, not change.settings.same_but_count(change.before)
        if not reload and worse.instances > change.settings.instances:
            worse = replace(worse, instances=max(worse.instances, full.wanted.instances))
        block = Block(settings=worse, until_s=change.at_s + full.policy.blocked_s, reload=reload)
        if block.forbids(full.wanted, at_s=full.at_s):
            return True
    return full.safety.forbids(full.wanted, at_s=full.at_s)


def _failed(full: _Proposal) -> bool:
    """Whether the target failed to load a short while ago; more instances do not load either."""
    for change in full.state.changes:
        if full.at_s >= change.at_s + full.policy.blocked_s or change.ok or change.unavailable:
            continue
        failed = change.settings
        grew = change.before is not None and failed.instances > change.before.instances
        most = replace(failed, instances=max(failed.instances, full.wanted.instances))
        if full.wanted in ((failed, most) if grew else (failed,)):
            return True
    return False


def _within_memory(full: _Proposal, granularity: int, clamps: list[Clamp]) -> tuple[Settings, bool]:
    """What fits into the free memory, and whether by a fresh copy; what is unknown fits.

    A reload needs all its instances a second time, an in-place scale up only those added.
    """
    wanted, applied, seen = full.wanted, full.applied, full.seen
    free = None if seen is None else seen.memory_free_bytes
    copy = None if seen is None else seen.memory_copy_bytes
    if free is None or copy is None or copy <= 0:
        return wanted, full.fresh
    fits = int(free // (COPY_MARGIN * copy))
    if full.copies:
        if wanted.instances <= fits:
            return wanted, full.fresh
        clamps.append(Clamp.MEMORY)
        return applied, False
    fresh = full.fresh
    if fresh and wanted.instances > fits:
        clamps.append(Clamp.MEMORY)
        fresh = False
    added = wanted.instances - applied.instances
    if fresh or added <= fits:
        return wanted, fresh
    if Clamp.MEMORY not in clamps:
        clamps.append(Clamp.MEMORY)
    count = applied.instances + fits // granularity * granularity
    return replace(wanted, instances=count), False
