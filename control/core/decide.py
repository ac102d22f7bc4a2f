"""One tick: what was seen and what is remembered become a decision.

Theory of operation. The load that must be carried is a lower confidence bound over several windows
(``demand``), times the headroom that the owner asks for; while the error budget is spent, at least
the level times the largest burst on record (``headroom``). Capacity per instance count comes from
the learnt service time through the queue model. Up at once: in place, or by a second copy where
what waits at the end of the loading would miss the SLO. Down when fewer instances were enough for
the whole patience. The batching is planned when the settings have been watched for a while. Missing
data, and a controller that has just started, can only hold; only a backlog may act before the first
stable window is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core import demand as demands
from control.core import windows
from control.core.demand import Demand
from control.core.guard import guard, is_reload, may_act_at_s
from control.core.planner import BatchingPlan, Knowledge, fewest, plan_batching
from control.core.service_time import ServiceTime
from control.core.state import ControlState
from control.core.types import Decision, Observation, Policy, Reason, Settings

SEEN_AND_DRAINED_S = 2.0
"""What it takes to see a burst and to drain what it left, beside the loading."""
LOADS_KEPT = 10.0
"""Patience is at least this many load times: instances that load slowly are let go late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the load calls for, before reason and guard.

    Attributes:
        demand: the load.
        need_rps: what the capacity must be.
        held_rps: of that, for bursts that came before; 0 while the error budget is met.
        spent: requests that missed the SLO lately, as a multiple of what the objective allows.
        capacities: Λ by instance count.
        needed: the fewest instances that carry the need.
        hold: the most that were needed over the patience.
        load_s: how long an instance takes to load.
        patience_s: how long a smaller count must have been enough.
        panic: the backlog alone takes more than half the SLO to drain.
        fresh: whether a scale up is made by a second copy.
    """

    demand: Demand
    need_rps: float
    held_rps: float
    spent: float
    capacities: dict[int, float]
    needed: int
    hold: int
    load_s: float
    patience_s: float
    panic: bool
    fresh: bool

    @property
    def overloaded(self) -> bool:
        """Whether no allowed count carries the need."""
        return self.capacities[self.needed] < self.need_rps


def decide(state: ControlState, seen: Observation, policy: Policy) -> tuple[Decision, ControlState]:
    """The decision for this look, and the memory for the next one. Pure.

    The decision holds every number it used in ``terms``.
    """
    before = state.intervals
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

    known = Knowledge(
        learnt=state.learnt,
        policy=policy,
        threads=seen.threads,
        threads_ours=seen.threads_ours,
        can_rebatch=seen.can_rebatch and applied.max_batch_size > 0,
        least_batch_size=seen.least_batch_size,
    )
    demand = demands.measure(
        state, seen, policy, applied=applied, service=service, fast_rps=fast_rps
    )
    if state.intervals != before:
        state = _account(state, demand, policy)
    wanted = _wanted(state, demand, known, applied, at_s=seen.at_s)
    at_least = fewest(wanted.capacities, demand.load_rps)
    state = _remember(state, seen.at_s, at_least, wanted.patience_s)
    held = fewest(wanted.capacities, wanted.held_rps)
    wanted = replace(wanted, hold=max(held, *(count for _, count in state.wanted)))
    reason, proposal, plan = _propose(state, applied, wanted, known, at_s=seen.at_s)
    fresh = reason is Reason.SCALE_UP_BACKLOG or (reason is Reason.SCALE_UP_LOAD and wanted.fresh)
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
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=applied,
        desired=guarded.settings,
        fresh=guarded.fresh,
        terms=_terms(state, wanted, service, applied, plan, policy),
        clamps=guarded.clamps,
        may_act_at_s=guarded.may_act_at_s,
    )
    return decision, state


def _account(state: ControlState, demand: Demand, policy: Policy) -> ControlState:
    """The memory with the newest interval's load, and how many of its requests missed the SLO."""
    newest = state.intervals[-1]
    return replace(
        state,
        headroom=state.headroom.update(
            at_s=newest.end_s, mean_rps=demand.fast_rps, low_rps=demand.load_rps
        ),
        budget=state.budget.absorb(newest, policy),
    )


def _wanted(
    state: ControlState, demand: Demand, known: Knowledge, applied: Settings, *, at_s: float
) -> Wanted:
    """The instances that the load calls for."""
    policy = known.policy
    load_s = state.load_s(policy)
    spent = state.budget.burn_rate(policy, window_s=policy.burn_long_s, at_s=at_s)
    capacities = known.capacities(applied)
    level_rps = min(state.headroom.level_rps(), demand.load_rps)
    held_rps = state.headroom.held_rps(
        allowed_fraction=1.0 - policy.slo_target_fraction,
        loss_s=load_s + SEEN_AND_DRAINED_S,
        carried_rps=capacities[fewest(capacities, level_rps)],
        at_s=at_s,
    )
    if policy.headroom > 1.0:
        held_rps = max(held_rps, policy.headroom * level_rps)
    sized_rps = demand.sized_rps(capacities[applied.instances])
    need_rps = max(sized_rps, held_rps)
    needed = fewest(capacities, need_rps)
    panic = demand.drain_s > policy.slo_s / 2
    if panic:  # more instances never hurt a backlog as long as they add capacity at all
        needed = max(needed, applied.instances)
    throughput_rps = known.throughput_rps(applied, applied.instances)
    waiting = demand.backlog_in(load_s, throughput_rps=throughput_rps)
    after_rps = known.throughput_rps(applied, max(needed, applied.instances))
    return Wanted(
        demand=demand,
        need_rps=need_rps,
        held_rps=held_rps,
        spent=spent,
        capacities=capacities,
        needed=needed,
        hold=needed,
        load_s=load_s,
        patience_s=max(policy.quiet_s, LOADS_KEPT * load_s),
        panic=panic,
        fresh=waiting > after_rps * policy.slo_s / 2,
    )


def _propose(
    state: ControlState, applied: Settings, wanted: Wanted, known: Knowledge, *, at_s: float
) -> tuple[Reason, Settings, BatchingPlan | None]:
    """Reason and proposal, before the guard."""
    policy, demand = known.policy, wanted.demand
    warm = _is_warm(state, at_s, policy)
    if wanted.needed > applied.instances and (warm or wanted.panic):
        reason = Reason.SCALE_UP_BACKLOG if wanted.panic else Reason.SCALE_UP_LOAD
        return reason, replace(applied, instances=wanted.needed), None
    if not warm:
        return Reason.HOLD_WARMING_UP, applied, None
    plan = None
    due = _plan_is_due(state, policy, at_s=at_s, overloaded=wanted.overloaded)
    if policy.rebatch and known.can_rebatch and due:
        plan = plan_batching(applied, known, rate_rps=demand.stable_rps, need_rps=wanted.need_rps)
        if _pays(plan, applied, policy, urgent=wanted.overloaded or wanted.panic):
            # Fewer instances are the fast loop's business, with its patience.
            count = max(plan.settings.instances, applied.instances)
            return Reason.REBATCH, replace(plan.settings, instances=count), plan
    if wanted.overloaded:
        return Reason.AT_LIMIT, applied, plan
    if wanted.needed < applied.instances:
        quiet = at_s - (state.started_s or at_s) >= wanted.patience_s
        room = wanted.capacities.get(wanted.hold, 0.0) >= policy.hysteresis * wanted.need_rps
        if quiet and wanted.hold < applied.instances and room and not wanted.panic:
            return Reason.SCALE_DOWN, replace(applied, instances=wanted.hold), plan
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


def _remember(state: ControlState, at_s: float, needed: int, patience_s: float) -> ControlState:
    """The memory with this tick's need; older than the patience is dropped."""
    recent = tuple(w for w in state.wanted if w[0] > at_s - patience_s)
    return replace(state, wanted=(*recent, (at_s, needed)))


def _is_warm(state: ControlState, at_s: float, policy: Policy) -> bool:
    """Whether the intervals cover (almost) one stable window since the start."""
    covered = windows.covered_s(state.intervals, window_s=policy.stable_window_s, at_s=at_s)
    return covered >= 0.8 * policy.stable_window_s


def _terms(
    state: ControlState,
    wanted: Wanted,
    service: ServiceTime,
    applied: Settings,
    plan: BatchingPlan | None,
    policy: Policy,
) -> dict[str, float]:
    """Every number that the decision used."""
    demand = wanted.demand
    terms = {
        "fast_rps": demand.fast_rps,
        "stable_rps": demand.stable_rps,
        "load_rps": demand.load_rps,
        "pending_count": demand.pending,
        "drain_s": demand.drain_s,
        "headroom": policy.headroom,
        "burst_ratio": state.headroom.ratio,
        "held_rps": wanted.held_rps,
        "budget_spent": wanted.spent,
        "need_rps": wanted.need_rps,
        "slo_s": policy.slo_s,
        "service_alpha_s": service.alpha_s,
        "service_beta_s": service.beta_s,
        "load_s": wanted.load_s,
        "patience_s": wanted.patience_s,
        "needed_instances": float(wanted.needed),
        "hold_instances": float(wanted.hold),
        "applied_instances": float(applied.instances),
    }
    terms |= {f"capacity_{count}_rps": carried for count, carried in wanted.capacities.items()}
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
