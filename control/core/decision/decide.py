"""One tick: what was seen and what is remembered become a decision.

Theory of operation. The load is a lower confidence bound over several windows (``demand``).
Capacity per instance count comes from the learnt service time through the queue model. The goal is
what carries the load, and beyond it what costs nobody anything (``wanted``). Up at once: in place,
or by a second copy where what waits at the end of the loading would miss the SLO. Down only where
an idle instance has a price, or others need its room. The batching is planned when the settings
have been watched for a while. Missing data, and a controller that has just started, can only hold;
only a backlog may act before the first stable window is full.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from control.core.decision import cache_switch, model_version, out_of_bounds, reload_cost, rollback
from control.core.decision.batching import BatchingPlan, plan_batching
from control.core.decision.guard import guard, may_act_at_s, no_count_helps
from control.core.decision.terms import terms_of
from control.core.decision.wanted import Expected, Wanted, expected, held_for_s, wanted
from control.core.load import demand as demands
from control.core.load import windows
from control.core.load.demand import Demand
from control.core.memory.state import ControlState, Loads
from control.core.queue_model.knowledge import Knowledge
from control.core.types import (
    MAX_BATCH_SIZE,
    Clamp,
    Decision,
    Observation,
    Policy,
    Reason,
    Settings,
)

WAIT_FOR_SHARE_S = 10.0
"""So long those that hold more than their share of the budget may take to give it up."""
FIRST_PLAN_S = 2.0
DRAINED_IN_S = 2.0
"""What waits when a batching is planned is to be gone after so long. With the arrivals alone, one
MiniLM instance was chosen amid 137 that waited, and a second one 4 s later."""
ALIKE = 0.02
"""Loads are remembered in steps of this share: of a slow fall only some."""
LEAST_LOOKS = 3
"""A time without need is made up by several looks, not by one long one."""
SCALE_UPS = (Reason.SCALE_UP_BACKLOG, Reason.SCALE_UP_LOAD, Reason.SCALE_UP_RESERVE)
CALM = (Reason.HOLD_STEADY, Reason.HOLD_QUIET_TIME)
CORRECTED_BEYOND = 0.1
"""Predictions within this share of what is seen are good enough; κ corrects what is beyond."""


def decide(state: ControlState, seen: Observation, policy: Policy) -> tuple[Decision, ControlState]:
    """The decision for this look, and the memory for the next one. Pure.

    The decision holds every number it used in ``terms``.
    """
    before = state.intervals
    state = state.absorb(seen, policy)
    applied = seen.applied
    fast_rps = windows.newest_rps(
        state.intervals, before, window_s=policy.fast_window_s, at_s=seen.at_s
    )
    missing = _missing(state, seen, fast_rps)
    if missing or applied is None or fast_rps is None:
        return _no_data(state, seen, missing, policy)
    first = rollback.first(state, seen, policy)
    if first is not None:
        return first, state
    if out_of_bounds.is_outside(applied, policy) and _is_warm(state, seen.at_s, policy):
        return out_of_bounds.within(state, seen, applied, fast_rps, policy)
    known = _known(state, seen, applied, policy)
    if known is None:
        return _idle(state, seen, applied, fast_rps, policy)

    service = known.service(applied.instances, seen.threads)
    demand = demands.measure(
        state.intervals,
        seen,
        policy,
        applied=applied,
        service=service,
        fast_rps=fast_rps,
    )
    now = expected(service, applied, applied.instances, demand.stable_rps)
    if state.intervals != before:
        state = _account(state, seen, demand, now, policy)
    want = wanted(state, demand, known, applied, at_s=seen.at_s)
    state = _remember(state, seen.at_s, want, seen.cap)
    versions = model_version.look(state, seen, applied, want, known)
    state = cache_switch.judged(versions.state, applied, known)
    reason, proposal, plan = _propose(state, seen, applied, want, known)
    switched = cache_switch.proposal(state, seen, applied, want, known) if reason in CALM else None
    if switched is not None:
        reason, proposal = Reason.CACHE_SWITCH, switched
    if plan is not None:
        state = replace(state, planned_s=seen.at_s)
    decision = _guarded(state, seen, applied, want, reason, proposal, plan, known, policy)
    if versions.decision is not None and not _comes_first(reason, want):
        decision, known = versions.decision, versions.known
    terms = terms_of(state, want, service, now, plan, decision, policy, cap=seen.cap)
    decision = replace(decision, need=want.need, terms={**terms, **versions.terms})
    if decision.changes and decision.desired is not None:
        state = _proposed(state, decision.reason, decision.desired, demand, known)
    return decision, state


def _comes_first(reason: Reason, want: Wanted) -> bool:
    """Whether this is more important than another version."""
    warming_up = reason is Reason.HOLD_WARMING_UP and not want.panic
    return warming_up or reason in (Reason.OVER_BUDGET, Reason.REBATCH)


def _proposed(
    state: ControlState, reason: Reason, desired: Settings, demand: Demand, known: Knowledge
) -> ControlState:
    """The memory with what is expected of a change that is about to begin."""
    after = known.service(desired.instances, desired.threads or known.threads)
    then = expected(after, desired, desired.instances, demand.stable_rps)
    safety = state.safety.proposed(desired, then.mean_s if then else None)
    owed = desired if reason is Reason.OVER_BUDGET else None
    return replace(state, safety=replace(safety, owed=owed))


def _idle(
    state: ControlState, seen: Observation, applied: Settings, fast_rps: float, policy: Policy
) -> tuple[Decision, ControlState]:
    """A decision for a model without a single batch: it may only give up what others need."""
    if out_of_bounds.surplus(seen, applied, policy) and _is_warm(state, seen.at_s, policy):
        return out_of_bounds.within(state, seen, applied, fast_rps, policy)
    return _hold(state, seen, Reason.HOLD_IDLE, {"fast_rps": fast_rps}, policy)


def _known(
    state: ControlState, seen: Observation, applied: Settings, policy: Policy
) -> Knowledge | None:
    """What plans are made from, the SLO corrected by κ; None without a single executed batch."""
    if state.learnt.at(applied.instances, threads=seen.threads, cores=policy.cores) is None:
        return None
    correction = state.safety.correction.factor
    if abs(correction - 1.0) > CORRECTED_BEYOND:
        policy = _corrected(policy, round(correction, 1))
    return Knowledge(
        learnt=state.learnt,
        policy=policy,
        threads=seen.threads,
        threads_ours=seen.threads_ours,
        can_rebatch=seen.can_rebatch and applied.max_batch_size > 0,
        least_batch_size=seen.least_batch_limit,
    )


@functools.lru_cache(maxsize=4096)
def _corrected(policy: Policy, factor: float) -> Policy:
    """The policy with its SLO divided by the factor; a policy has many fields to copy."""
    return replace(policy, slo_s=policy.slo_s / factor)


def _account(
    state: ControlState,
    seen: Observation,
    demand: Demand,
    now: Expected | None,
    policy: Policy,
) -> ControlState:
    """The memory with the newest interval: its load, its misses, and how well it was predicted."""
    newest = state.intervals[-1]
    answered, took_s = windows.answered(
        state.intervals, window_s=policy.stable_window_s, at_s=seen.at_s
    )
    safety = state.safety.corrected(
        took_s / answered if answered else None,
        now.mean_s if now else None,
        policy,
        at_s=seen.at_s,
        panic=demand.drain_s > policy.slo_s / 2,
    )
    return replace(
        state,
        safety=safety,
        budget=state.budget.absorb(newest, policy),
    )


def _propose(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted, known: Knowledge
) -> tuple[Reason, Settings, BatchingPlan | None]:
    """Reason and proposal, before the guard."""
    policy, demand, at_s = known.policy, want.demand, seen.at_s
    warm = _is_warm(state, at_s, policy)
    if warm and out_of_bounds.surplus(seen, applied, policy):
        most = applied.instances - out_of_bounds.surplus(seen, applied, policy)
        return Reason.OVER_BUDGET, replace(applied, instances=most), None
    if want.goal > applied.instances and (warm or want.panic):
        more = _more(state, seen, applied, want)
        if more is not None:
            return *more, None
    plan = None
    due = _plan_is_due(state, policy, want, warm=warm, at_s=at_s)
    if policy.rebatch and known.can_rebatch and due:
        plan = plan_batching(
            applied,
            known,
            rate_rps=demand.stable_rps,
            need_rps=want.need_rps + demand.excess / DRAINED_IN_S,
        )
        if _may_rebatch(want, policy) and reload_cost.rebatch_pays(
            state, plan, applied, want, known
        ):
            # Fewer instances are the fast loop's business, with its patience.
            count = max(plan.settings.instances, applied.instances)
            return Reason.REBATCH, replace(plan.settings, instances=count), plan
    if not warm:
        return Reason.HOLD_WARMING_UP, applied, plan
    if want.overloaded or (want.panic and applied.instances >= max(want.capacities)):
        return Reason.AT_LIMIT, applied, plan
    if policy.idle_cost > 0.0 and min(want.needed, want.goal) < applied.instances:
        return *_fewer(state, seen, applied, want, policy), plan
    return want.steady, applied, plan


def _fewer(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted, policy: Policy
) -> tuple[Reason, Settings]:
    """Reason and proposal where an idle instance has a price and fewer would do."""
    held_s = held_for_s(policy, want.capacities[applied.instances], load_s=want.load_s)
    # Before the first look somebody may have needed them all.
    watched = seen.at_s - (state.started_s or seen.at_s) >= held_s and state.looks >= LEAST_LOOKS
    if want.goal < applied.instances and not want.panic and watched:
        return Reason.SCALE_DOWN, replace(applied, instances=want.goal)
    return Reason.HOLD_QUIET_TIME, applied


def _may_rebatch(want: Wanted, policy: Policy) -> bool:
    """Whether the owner's batching may be left: by a written limit, or for a load beyond it."""
    return MAX_BATCH_SIZE not in policy.unwritten or want.overloaded or not want.reachable


def _more(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted
) -> tuple[Reason, Settings] | None:
    """Reason and proposal where more instances are called for; None where those may wait."""
    short = want.needed > applied.instances
    if _waits_for_share(state, seen, applied, want):
        return (Reason.AT_LIMIT, applied) if short else None
    reason = Reason.SCALE_UP_LOAD if short else Reason.SCALE_UP_RESERVE
    if want.panic:
        reason = Reason.SCALE_UP_BACKLOG
    return reason, replace(applied, instances=want.goal)


def _guarded(
    state: ControlState,
    seen: Observation,
    applied: Settings,
    want: Wanted,
    reason: Reason,
    proposal: Settings,
    plan: BatchingPlan | None,
    known: Knowledge,
    policy: Policy,
) -> Decision:
    """The decision that is left when the guard has looked at the proposal; without its terms."""
    probe = state.learnt.trusted_up_to(seen.threads, policy.cores)
    probed = proposal.instances > max(probe, applied.instances)
    if probed:
        proposal = replace(proposal, instances=max(probe, applied.instances))
    adds = None
    if plan is not None and reason is Reason.REBATCH:
        adds = plan.capacity_rps > plan.applied_capacity_rps
    guarded = guard(
        proposal,
        applied,
        state,
        policy,
        at_s=seen.at_s,
        fresh=want.fresh and reason in SCALE_UPS,
        granularity=seen.granularity,
        seen=seen,
        safety=state.safety,
        adds_capacity=adds,
        out_of_reach=not want.reachable and no_count_helps(applied, known, policy),
    )
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=applied,
        desired=guarded.settings,
        fresh=guarded.fresh,
        clamps=(*((Clamp.PROBE,) if probed else ()), *guarded.clamps),
        may_act_at_s=guarded.may_act_at_s,
    )


def _plan_is_due(
    state: ControlState, policy: Policy, want: Wanted, *, warm: bool, at_s: float
) -> bool:
    """Whether the same settings have been watched for long enough since the last plan.

    Two seconds of a backlog that no count carries say enough for the first one: each second more
    is one of requests that wait. Nothing is planned while an older copy takes its share.
    """
    if state.intervals and state.intervals[-1].old_copy_works:
        return False
    overloaded = want.overloaded or not want.reachable
    if not warm and not (overloaded and want.panic):
        return False
    wait_s = policy.rebatch_after_s
    if overloaded:
        wait_s = min(wait_s, policy.stable_window_s if warm else FIRST_PLAN_S)
    return at_s - max(state.settings_since_s, state.planned_s) >= wait_s


def _waits_for_share(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted
) -> bool:
    """Whether the budget allows no more, or a part of a need that it may soon allow as a whole.

    A saturated model that grows by too little has that change in flight until its queue is empty.
    """
    if seen.cap is None:
        return False
    if seen.cap <= applied.instances:
        return True
    if seen.cap >= want.needed or state.short_since_s is None:
        return False
    return seen.at_s - state.short_since_s < WAIT_FOR_SHARE_S


def _no_data(
    state: ControlState, seen: Observation, missing: list[str], policy: Policy
) -> tuple[Decision, ControlState]:
    """A hold for a look that lacks something, or that says two things of the same requests."""
    if not state.agreement.broken:
        terms = {"missing": float(len(missing))}
        return _hold(state, seen, Reason.HOLD_NO_DATA, terms, policy)
    told = {
        "counters_rps": state.agreement.counted_rps,
        "statistics_rps": state.agreement.told_rps,
    }
    return _hold(state, seen, Reason.HOLD_CONTRADICTED, told, policy)


def _missing(state: ControlState, seen: Observation, fast_rps: float | None) -> list[str]:
    """Which parts of the look are missing; ``newest`` is the interval that ends with its sample."""
    newest = state.intervals[-1] if state.intervals else None
    parts = {
        "counters": seen.counters,
        "statistics": seen.statistics,
        "applied": seen.applied,
        "rate": fast_rps,
        "newest": newest if newest is not None and newest.end_s == seen.sampled_s else None,
    }
    return [name for name, value in parts.items() if value is None]


def _remember(state: ControlState, at_s: float, want: Wanted, cap: int | None) -> ControlState:
    """The memory with this look's load, and since when the budget is short."""
    short = cap is not None and want.needed > cap
    since_s = at_s if state.short_since_s is None else state.short_since_s
    return replace(
        state,
        sure_loads=_remembered(state.sure_loads, at_s, want.sure_rps, math.floor),
        likely_loads=_remembered(state.likely_loads, at_s, want.likely_rps, math.ceil),
        peak_rps=max(state.peak_rps, want.demand.load_rps),
        short_since_s=since_s if short else None,
    )


def _remembered(loads: Loads, at_s: float, rps: float, rounded: Callable[[float], int]) -> Loads:
    """The loads with the newest, rounded; of earlier ones only those that were greater."""
    if rps > 0.0:
        rps = math.exp(rounded(math.log(rps) / ALIKE) * ALIKE)
    return (*(load for load in loads if load[1] > rps), (at_s, rps))


def _is_warm(state: ControlState, at_s: float, policy: Policy) -> bool:
    """Whether the intervals cover (almost) one stable window since the start."""
    newest_s = state.intervals[-1].end_s if state.intervals else at_s
    covered = windows.covered_s(state.intervals, window_s=policy.stable_window_s, at_s=newest_s)
    return covered >= 0.8 * policy.stable_window_s


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
