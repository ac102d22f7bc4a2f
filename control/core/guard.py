"""The guard: a proposal becomes what may be done now. It can only hold, clamp or slow down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from control.core.state import ControlState
from control.core.types import Clamp, Policy, Settings


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


def guard(
    proposal: Settings,
    applied: Settings,
    state: ControlState,
    policy: Policy,
    *,
    at_s: float,
    fresh: bool = False,
    granularity: int = 1,
) -> Guarded:
    """Clamp ``proposal`` to the bounds, the step, the cooldown and the reload budget.

    A scale up is never delayed: it only costs money, and waiting costs the SLO. One that wanted a
    fresh copy is made in place when the hour's reloads are spent.
    """
    clamps: list[Clamp] = []
    wanted = _bounded(proposal, applied, policy, clamps, granularity)
    ready_s = may_act_at_s(state, policy)
    held = _held(wanted, applied, state, policy, at_s=at_s, ready_s=ready_s)
    if held is not None:
        clamps.append(held)
        wanted = applied
    if fresh and _reloads_spent(state, policy):
        clamps.append(Clamp.RELOAD_BUDGET)
        fresh = False
    return Guarded(
        settings=wanted,
        fresh=fresh and wanted != applied,
        clamps=tuple(clamps),
        may_act_at_s=ready_s,
    )


def may_act_at_s(state: ControlState, policy: Policy) -> float:
    """When the cooldown of the last change ends; 0 without one."""
    return state.changes[-1].at_s + policy.cooldown_s if state.changes else 0.0


def is_reload(wanted: Settings, applied: Settings) -> bool:
    """Whether the change touches anything but the instance count."""
    return replace(wanted, instances=applied.instances) != applied


def _bounded(
    proposal: Settings,
    applied: Settings,
    policy: Policy,
    clamps: list[Clamp],
    granularity: int,
) -> Settings:
    """The proposal within the policy's bounds, the largest step down, and whole multiples.

    A hold passes as it is: bringing a count within its bounds is a decision with a reason of its
    own, not a side effect.
    """
    count = proposal.instances
    if count == applied.instances:
        return proposal
    if count < policy.min_instances:
        count = policy.min_instances
        clamps.append(Clamp.MIN_INSTANCES)
    if count > policy.max_instances:
        count = policy.max_instances
        clamps.append(Clamp.MAX_INSTANCES)
    step = max(granularity, math.floor(applied.instances * policy.step_down_fraction))
    if applied.instances - count > step:
        count = applied.instances - step
        clamps.append(Clamp.STEP_DOWN)
    # Up to a whole multiple on the way up and on the way down: never fewer than were asked for.
    count = -(-count // granularity) * granularity
    return replace(proposal, instances=count)


def _reloads_spent(state: ControlState, policy: Policy) -> bool:
    """Whether the hour's reloads are used up."""
    return sum(change.reload for change in state.changes) >= policy.reloads_per_hour


def _held(
    wanted: Settings,
    applied: Settings,
    state: ControlState,
    policy: Policy,
    *,
    at_s: float,
    ready_s: float,
) -> Clamp | None:
    """Why the change must not happen now, or None when it may."""
    if wanted == applied:
        return None
    if state.in_flight is not None:
        return Clamp.CHANGE_IN_FLIGHT
    failed = [c for c in state.changes if not c.ok and c.at_s > at_s - policy.blocked_s]
    if any(c.settings == wanted for c in failed):
        return Clamp.BLOCKED
    reload = is_reload(wanted, applied)
    if reload and _reloads_spent(state, policy):
        return Clamp.RELOAD_BUDGET
    grows = wanted.instances > applied.instances and not reload
    if not grows and at_s < ready_s:
        return Clamp.COOLDOWN
    return None
