"""The base configuration is proposed where it is worth a reload."""

from __future__ import annotations

from control.core.decision.facts import Facts, NeedFacts
from control.core.reasons import Reason
from control.core.types import Proposal, Settings


def _fills_batches(need: NeedFacts, applied: Settings) -> bool:
    """Whether the load is one that large batches are for, and not too large ones by themselves.

    What waits makes full ones. Where times have changed, small ones, which do not come, tell last.
    """
    overloaded = need.want.overloaded or not need.want.reachable
    if not overloaded and need.want.demand.pending <= 0:
        return False
    known = need.known
    full_s = known.service(applied.instances, known.threads).of(applied.largest_batch)
    return full_s <= known.policy.slo_s


def propose(facts: Facts) -> Proposal | None:
    """The plan's settings; None where there is none, or it is not worth a reload."""
    need, applied = facts.need, facts.applied
    if need is None or need.plan is None or not need.plan.pays(applied):
        return None
    plan, wanted = need.plan, need.plan.settings
    if wanted.largest_batch < applied.largest_batch and _fills_batches(need, applied):
        return None
    begins_to_refuse = applied.refuse_after_s is None and wanted.refuse_after_s is not None
    return Proposal(
        reason=Reason.REBATCH,
        settings=wanted,
        adds_capacity=begins_to_refuse or plan.capacity_rps > plan.applied_capacity_rps,
        trusted=need.known.threads_ours,
        or_next=True,
    )
