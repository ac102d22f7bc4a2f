"""The base configuration is proposed where it carries clearly more than what is in force."""

from __future__ import annotations

from control.core.decision.facts import Facts, NeedFacts
from control.core.decision.proposal import Proposal
from control.core.types import MAX_BATCH_SIZE, Policy, Reason


def propose(facts: Facts) -> Proposal | None:
    """The plan's settings; None where there is none, or it is not worth a reload."""
    need, applied = facts.need, facts.applied
    if need is None or need.plan is None or not _may_rebatch(need, need.known.policy):
        return None
    plan, wanted = need.plan, need.plan.settings
    if not plan.pays(applied):
        return None
    smaller = wanted.largest_batch < applied.largest_batch
    if smaller and need.want.demand.pending > 0:  # what waits makes larger ones
        return None
    return Proposal(
        reason=Reason.REBATCH,
        settings=wanted,
        adds_capacity=plan.capacity_rps > plan.applied_capacity_rps,
        trusted=need.known.threads_ours,
        or_next=True,
    )


def _may_rebatch(need: NeedFacts, policy: Policy) -> bool:
    """Whether the owner's batching may be left: by a written limit, or for a load beyond it."""
    want = need.want
    return MAX_BATCH_SIZE not in policy.unwritten or want.overloaded or not want.reachable
