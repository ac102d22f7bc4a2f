"""The numbers behind a decision, by the names that docs/explanation/loop/terms.md explains.

They are made last, for people: nothing reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping

from control.core.decision.facts import Facts, NeedFacts
from control.core.judgement.judge import Verdict
from control.core.memory.state import ControlState
from control.core.need import cached
from control.core.need.base import BasePlan
from control.core.service.versions import allowed
from control.core.types import Proposal

MOST_GAIN = 1e6


def terms_of(facts: Facts, proposal: Proposal) -> dict[str, float]:
    """Every number that the decision used."""
    terms = {"fast_rps": facts.fast_rps, **_safety(facts.state)}
    if facts.seen.cap is not None:
        terms["cap_instances"] = float(facts.seen.cap)
    if (rung := allowed(facts.seen, facts.policy)) is not None:
        terms["rung_version"] = float(rung)
    if facts.seen.most_by_slots is not None:
        terms["slot_instances"] = float(facts.seen.most_by_slots)
    if facts.need is not None:
        terms |= _load(facts, facts.need)
        terms |= facts.need.versions.terms
        terms |= cached.terms(facts.state, facts.policy)
        if facts.need.plan is not None:
            terms |= _plan(facts.need.plan)
    return {**terms, **proposal.terms}


def _load(facts: Facts, need: NeedFacts) -> dict[str, float]:
    """The load, the need and what each count carries."""
    want, demand = need.want, need.want.demand
    service = need.known.service(facts.applied.instances, facts.seen.threads)
    terms = {
        "stable_rps": demand.stable_rps,
        "load_rps": demand.load_rps,
        "pending_count": demand.pending,
        "drain_s": demand.drain_s,
        "peak_rps": facts.state.peak_rps,
        "need_rps": want.need_rps,
        "slo_s": facts.policy.slo_s,
        "service_alpha_s": service.alpha_s,
        "service_beta_s": service.beta_s,
        "service_cv": service.cv_fraction,
        "slow_ratio": facts.state.learnt.slow.slower,
        "load_s": want.load_s,
        "needed_instances": float(want.needed),
        "hold_instances": float(want.hold),
        "goal_instances": float(want.goal),
        "applied_instances": float(facts.applied.instances),
    }
    return terms | {f"capacity_{count}_rps": rps for count, rps in want.capacities.items()}


def _plan(plan: BasePlan) -> dict[str, float]:
    """Another batching, and what it is worth."""
    return {
        "plan_gain": min(plan.gain, MOST_GAIN),  # infinite where nothing is carried now
        "plan_capacity_rps": plan.capacity_rps,
        "plan_applied_capacity_rps": plan.applied_capacity_rps,
        "plan_max_batch_size": float(plan.settings.max_batch_size),
        "plan_max_queue_delay_s": plan.settings.max_queue_delay_s,
        "plan_threads": float(plan.settings.threads or 0),
    }


def _safety(state: ControlState) -> Mapping[str, float]:
    """The judge's own numbers."""
    safety = state.safety
    return {
        "budget_burns": float(safety.burns),
        "watching": float(safety.watch is not None),
        "judged_worse": float(safety.verdict is Verdict.WORSE),
    }
