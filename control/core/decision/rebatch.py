"""Another batching is proposed where a plan is there, may be made, and pays for its reload."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.decision.proposal import Proposal
from control.core.need.reload_cost import rebatch_pays
from control.core.need.wanted import Wanted
from control.core.types import MAX_BATCH_SIZE, Policy, Reason


def propose(facts: Facts) -> Proposal | None:
    """The plan's settings; fewer instances are not its business."""
    need, applied = facts.need, facts.applied
    if need is None or need.plan is None or not _may_rebatch(need.want, need.known.policy):
        return None
    plan = need.plan
    if not rebatch_pays(facts.state, plan, applied, need.want, need.known):
        return None
    count = max(plan.settings.instances, applied.instances)
    return Proposal(
        reason=Reason.REBATCH,
        settings=replace(plan.settings, instances=count),
        adds_capacity=plan.capacity_rps > plan.applied_capacity_rps,
    )


def _may_rebatch(want: Wanted, policy: Policy) -> bool:
    """Whether the owner's batching may be left: by a written limit, or for a load beyond it."""
    return MAX_BATCH_SIZE not in policy.unwritten or want.overloaded or not want.reachable
