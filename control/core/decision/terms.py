"""The numbers behind a decision, by the names that docs/explanation/control-loop.md explains."""

from __future__ import annotations

from control.core.decision import cache_switch, rollback
from control.core.decision.batching import BatchingPlan
from control.core.decision.wanted import Expected, Wanted
from control.core.memory.state import ControlState
from control.core.service.learnt import ServiceTime
from control.core.types import Decision, Policy

MOST_GAIN = 1e6


def terms_of(
    state: ControlState,
    want: Wanted,
    service: ServiceTime,
    now: Expected | None,
    plan: BatchingPlan | None,
    decision: Decision,
    policy: Policy,
    *,
    cap: int | None,
) -> dict[str, float]:
    """Every number that the decision used."""
    demand = want.demand
    terms = {
        "fast_rps": demand.fast_rps,
        "stable_rps": demand.stable_rps,
        "load_rps": demand.load_rps,
        "pending_count": demand.pending,
        "drain_s": demand.drain_s,
        "peak_rps": state.peak_rps,
        "need_rps": want.need_rps,
        "slo_s": policy.slo_s,
        "service_alpha_s": service.alpha_s,
        "service_beta_s": service.beta_s,
        "slow_ratio": state.learnt.slow.slower,
        "load_s": want.load_s,
        "needed_instances": float(want.needed),
        "hold_instances": float(want.hold),
        "goal_instances": float(want.goal),
        **rollback.terms(state),
        **cache_switch.terms(state, policy),
    }
    if cap is not None:
        terms["cap_instances"] = float(cap)
    if decision.applied is not None:
        terms["applied_instances"] = float(decision.applied.instances)
    if now is not None:
        terms |= {"expected_mean_s": now.mean_s, "expected_p99_s": now.p99_s}
    terms |= {f"capacity_{count}_rps": carried for count, carried in want.capacities.items()}
    if plan is not None:
        terms |= {
            "plan_gain": min(plan.gain, MOST_GAIN),  # infinite where nothing is carried now
            "plan_capacity_rps": plan.capacity_rps,
            "plan_applied_capacity_rps": plan.applied_capacity_rps,
            "plan_max_batch_size": float(plan.settings.max_batch_size),
            "plan_max_queue_delay_s": plan.settings.max_queue_delay_s,
            "plan_threads": float(plan.settings.threads or 0),
        }
    return terms
