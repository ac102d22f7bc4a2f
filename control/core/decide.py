"""One tick: what was seen and what is remembered become a decision.

Theory of operation. The load that must be carried is the faster of a fast and a stable window,
plus what it takes to drain the waiting requests in time. Capacity per instance count comes from the
learnt service time through the queue model. Up at once, and by a second copy where the load
saturates what is applied; down only when fewer instances were enough
for the whole quiet time, and with hysteresis. The batching is planned when the settings have been
watched for a while. Missing data, and a controller that has just started, can only hold; only a
backlog may act before the first stable window is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core import windows
from control.core.guard import guard, is_reload, may_act_at_s
from control.core.planner import BatchingPlan, Knowledge, fewest, plan_batching
from control.core.service_time import ServiceTime
from control.core.state import ControlState
from control.core.types import Decision, Observation, Policy, Reason, Settings

DRAIN_AT_LEAST_S = 2.0
SATURATED = 1.1
"""A load this many times the capacity leaves the queue never empty while a change is made: Triton
then lets an in-place update wait for many seconds, and a second copy is the faster way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The load to carry.

    Attributes:
        fast_rps, stable_rps: arrival rates over the two windows.
        pending: requests that wait.
        drain_s: how long they would take at full batches.
        need_rps: what the capacity must be.
        at_once_rps: the load while a change is made: a jump is still averaged away in the windows.
    """

    fast_rps: float
    stable_rps: float
    pending: float
    drain_s: float
    need_rps: float
    at_once_rps: float


def decide(state: ControlState, seen: Observation, policy: Policy) -> tuple[Decision, ControlState]:
    """The decision for this look, and the memory for the next one. Pure.

    The decision holds every number it used in ``terms``.
    """
    state = state.absorb(seen, policy)
    applied = seen.applied
    fast_rps = windows.rate_rps(state.intervals, window_s=policy.fast_window_s, at_s=seen.at_s)
    missing = _missing(seen, fast_rps)
    service = None
    if applied is not None:
        service = state.learnt.at(applied.instances, threads=seen.threads, cores=policy.cores)
    if missing or applied is None or fast_rps is None:
        return _hold(state, seen, Reason.HOLD_NO_DATA, {"missing": float(len(missing))}, policy)
    if _out_of_bounds(applied, policy) and _is_warm(state, seen.at_s, policy):
        return _within_bounds(state, seen, applied, fast_rps, policy)
    if service is None:
        return _hold(state, seen, Reason.HOLD_IDLE, {"fast_rps": fast_rps}, policy)

    demand = _demand(state, applied, service, fast_rps, seen, policy)
    known = Knowledge(
        learnt=state.learnt,
        policy=policy,
        threads=seen.threads,
        threads_ours=seen.threads_ours,
        can_rebatch=seen.can_rebatch and applied.max_batch_size > 0,
        least_batch_size=seen.least_batch_size,
    )
    capacities = known.capacities(applied)
    needed = fewest(capacities, demand.need_rps)
    panic = demand.drain_s > policy.slo_s / 2
    if panic:  # more instances never hurt a backlog as long as they add capacity at all
        needed = max(needed, applied.instances)
    state = _remember(state, seen.at_s, needed, policy)
    warm = _is_warm(state, seen.at_s, policy)
    reason, proposal, plan = _propose(
        state, applied, demand, capacities, needed, known, panic=panic, warm=warm, at_s=seen.at_s
    )
    fresh = reason is Reason.SCALE_UP_BACKLOG or (
        reason is Reason.SCALE_UP_LOAD
        and demand.at_once_rps > SATURATED * capacities[applied.instances]
    )
    if plan is not None:
        state = replace(state, planned_s=seen.at_s)
    guarded = guard(
        proposal,
        applied,
        state,
        policy,
        at_s=seen.at_s,
        fresh=fresh,
        granularity=seen.granularity,
    )
    terms = _terms(demand, service, capacities, needed, applied, plan, policy)
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=applied,
        desired=guarded.settings,
        fresh=guarded.fresh,
        terms=terms,
        clamps=guarded.clamps,
        may_act_at_s=guarded.may_act_at_s,
    )
    return decision, state


def _propose(
    state: ControlState,
    applied: Settings,
    demand: Demand,
    capacities: dict[int, float],
    needed: int,
    known: Knowledge,
    *,
    panic: bool,
    warm: bool,
    at_s: float,
) -> tuple[Reason, Settings, BatchingPlan | None]:
    """Reason and proposal, before the guard."""
    policy = known.policy
    overloaded = capacities[needed] < demand.need_rps
    if needed > applied.instances and (warm or panic):
        reason = Reason.SCALE_UP_BACKLOG if panic else Reason.SCALE_UP_LOAD
        return reason, replace(applied, instances=needed), None
    if not warm:
        return Reason.HOLD_WARMING_UP, applied, None
    plan = None
    due = _plan_is_due(state, policy, at_s=at_s, overloaded=overloaded)
    if policy.rebatch and known.can_rebatch and due:
        plan = plan_batching(applied, known, rate_rps=demand.stable_rps, need_rps=demand.need_rps)
        if _pays(plan, applied, policy, urgent=overloaded or panic):
            # Fewer instances are the fast loop's business, with its quiet time.
            count = max(plan.settings.instances, applied.instances)
            return Reason.REBATCH, replace(plan.settings, instances=count), plan
    if overloaded:
        return Reason.AT_LIMIT, applied, plan
    peak = max(count for _, count in state.wanted)
    if needed < applied.instances:
        below = capacities.get(applied.instances - 1, 0.0)
        quiet = at_s - (state.started_s or at_s) >= policy.quiet_s
        roomy = below >= policy.hysteresis * demand.need_rps
        if quiet and peak < applied.instances and roomy and not panic:
            return Reason.SCALE_DOWN, replace(applied, instances=peak), plan
        return Reason.HOLD_QUIET_TIME, applied, plan
    return Reason.HOLD_STEADY, applied, plan


def _plan_is_due(state: ControlState, policy: Policy, *, at_s: float, overloaded: bool) -> bool:
    """Whether the same settings have been watched for long enough since the last plan."""
    wait_s = policy.rebatch_after_s
    if overloaded:
        wait_s = min(wait_s, policy.stable_window_s)
    return at_s - max(state.settings_since_s, state.planned_s) >= wait_s


def _pays(plan: BatchingPlan, applied: Settings, policy: Policy, *, urgent: bool) -> bool:
    """Whether the plan is worth a reload."""
    if not is_reload(plan.settings, applied):
        return False
    return plan.gain >= policy.rebatch_gain * (1.25 if urgent else 1.0)


def _out_of_bounds(applied: Settings, policy: Policy) -> bool:
    """Whether the count is below or above what the policy allows."""
    return not policy.min_instances <= applied.instances <= policy.max_instances


def _within_bounds(
    state: ControlState, seen: Observation, applied: Settings, fast_rps: float, policy: Policy
) -> tuple[Decision, ControlState]:
    """A decision that brings the count within the policy's bounds, step by step."""
    count = min(max(applied.instances, policy.min_instances), policy.max_instances)
    guarded = guard(
        replace(applied, instances=count),
        applied,
        state,
        policy,
        at_s=seen.at_s,
        granularity=seen.granularity,
    )
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=Reason.OUT_OF_BOUNDS,
        applied=applied,
        desired=guarded.settings,
        terms={
            "fast_rps": fast_rps,
            "min_instances": float(policy.min_instances),
            "max_instances": float(policy.max_instances),
        },
        clamps=guarded.clamps,
        may_act_at_s=guarded.may_act_at_s,
    )
    return decision, state


def _missing(seen: Observation, fast_rps: float | None) -> list[str]:
    """Which parts of the look are missing."""
    parts = {
        "counters": seen.counters,
        "statistics": seen.statistics,
        "applied": seen.applied,
        "rate": fast_rps,
    }
    return [name for name, value in parts.items() if value is None]


def _demand(
    state: ControlState,
    applied: Settings,
    service: ServiceTime,
    fast_rps: float,
    seen: Observation,
    policy: Policy,
) -> Demand:
    """The load that must be carried."""
    stable_rps = (
        windows.rate_rps(state.intervals, window_s=policy.stable_window_s, at_s=seen.at_s)
        or fast_rps
    )
    waiting = seen.counters.pending if seen.counters else 0.0
    full = applied.largest_batch
    excess = max(0.0, waiting - full * applied.instances)
    drain_s = excess * service.of(full) / (full * applied.instances)
    drain_within_s = max(policy.slo_s, DRAIN_AT_LEAST_S)
    need_rps = max(fast_rps, stable_rps) + excess / drain_within_s
    return Demand(
        fast_rps=fast_rps,
        stable_rps=stable_rps,
        pending=waiting,
        drain_s=drain_s,
        need_rps=need_rps,
        at_once_rps=max(need_rps, windows.newest_rps(state.intervals)),
    )


def _remember(state: ControlState, at_s: float, needed: int, policy: Policy) -> ControlState:
    """The memory with this tick's need; older than the quiet time is dropped."""
    recent = tuple(w for w in state.wanted if w[0] > at_s - policy.quiet_s)
    return replace(state, wanted=(*recent, (at_s, needed)))


def _is_warm(state: ControlState, at_s: float, policy: Policy) -> bool:
    """Whether the intervals cover (almost) one stable window since the start."""
    covered = windows.covered_s(state.intervals, window_s=policy.stable_window_s, at_s=at_s)
    return covered >= 0.8 * policy.stable_window_s


def _terms(
    demand: Demand,
    service: ServiceTime,
    capacities: dict[int, float],
    needed: int,
    applied: Settings,
    plan: BatchingPlan | None,
    policy: Policy,
) -> dict[str, float]:
    """Every number that the decision used."""
    terms = {
        "fast_rps": demand.fast_rps,
        "stable_rps": demand.stable_rps,
        "pending_count": demand.pending,
        "drain_s": demand.drain_s,
        "need_rps": demand.need_rps,
        "at_once_rps": demand.at_once_rps,
        "slo_s": policy.slo_s,
        "service_alpha_s": service.alpha_s,
        "service_beta_s": service.beta_s,
        "needed_instances": float(needed),
        "applied_instances": float(applied.instances),
    }
    terms |= {f"capacity_{count}_rps": carried for count, carried in capacities.items()}
    if plan is not None:
        terms |= {
            "plan_gain": plan.gain,
            "plan_capacity_rps": plan.capacity_rps,
            "plan_applied_capacity_rps": plan.applied_capacity_rps,
            "plan_max_batch_size": float(plan.settings.max_batch_size),
            "plan_max_queue_delay_s": plan.settings.max_queue_delay_s,
            "plan_threads": float(plan.settings.threads or 0),
        }
    return terms


def _hold(
    state: ControlState,
    seen: Observation,
    reason: Reason,
    terms: dict[str, float],
    policy: Policy,
) -> tuple[Decision, ControlState]:
    """A decision that keeps what is applied."""
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=seen.applied,
        desired=seen.applied,
        terms=terms,
        may_act_at_s=may_act_at_s(state, policy),
    )
    return decision, state
