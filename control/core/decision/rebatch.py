"""The base configuration is proposed where it is worth a reload."""

from __future__ import annotations

from control.core.decision.facts import Facts
from control.core.reasons import Reason
from control.core.types import Proposal


def propose(facts: Facts) -> Proposal | None:
    """The plan's settings; None where there is none, or it is not worth a reload."""
    need, applied = facts.need, facts.applied
    if need is None or need.plan is None or not need.plan.pays(applied):
        return None
    plan, wanted = need.plan, need.plan.settings
    smaller = wanted.largest_batch < applied.largest_batch
    if smaller and need.want.demand.pending > 0:  # what waits makes larger ones
        return None
    begins_to_refuse = applied.refuse_after_s is None and wanted.refuse_after_s is not None
    return Proposal(
        reason=Reason.REBATCH,
        settings=wanted,
        adds_capacity=begins_to_refuse or plan.capacity_rps > plan.applied_capacity_rps,
        trusted=need.known.threads_ours,
        or_next=True,
    )
