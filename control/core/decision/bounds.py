"""A count that policy or budget do not allow is brought within them, step by step.

The load comes first: a count above ``max_instances`` is never cut below what is measured to be
needed, and never a second time before it was seen what the first cut did. What is needed is
measured at the count in force; how long a batch takes at fewer instances is guessed from the cores
only where the model is known to use them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.load import windows
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.reasons import Clamp, Reason
from control.core.types import Observation, Proposal

STEP_DOWN = 0.5
"""Of the instances, at most this share goes in one step, at least one: what fewer carry is a
prediction."""


def propose(facts: Facts) -> Proposal | None:
    """The count within the bounds of policy and budget; None where it is within the policy's."""
    applied, policy = facts.applied, facts.policy
    count = min(max(applied.instances, policy.min_instances), policy.max_instances)
    if count == applied.instances or not facts.warm:
        return None
    needed = 0
    if count < applied.instances:
        needed = min(measured_need(facts), applied.instances)
        step = max(facts.seen.granularity, math.floor(applied.instances * STEP_DOWN))
        count = max(count, needed, applied.instances - step)
    limited = count == applied.instances
    most = replace(facts, applied=replace(applied, instances=count))
    count -= most.surplus
    unsettled = count < applied.instances and not _is_settled(facts)
    return Proposal(
        reason=Reason.AT_LIMIT if limited and not most.surplus else Reason.OUT_OF_BOUNDS,
        settings=applied if unsettled else replace(applied, instances=count),
        trusted=True,
        clamps=(Clamp.COOLDOWN,) if unsettled else (),
        terms={
            "needed_instances": float(needed),
            "min_instances": float(policy.min_instances),
            "max_instances": float(policy.max_instances),
        },
    )


def idle(facts: Facts) -> Proposal | None:
    """A hold for a model without a single batch, unless it has what others need."""
    if facts.need is not None or (facts.surplus and facts.warm):
        return None
    return Proposal(reason=Reason.HOLD_IDLE, settings=facts.applied)


def share(facts: Facts) -> Proposal | None:
    """What others need of the budget is given up; None where the model holds no more than its own.

    It waits for no cooldown and no step down.
    """
    if not (facts.surplus and facts.warm):
        return None
    most = replace(facts.applied, instances=facts.applied.instances - facts.surplus)
    return Proposal(reason=Reason.OVER_BUDGET, settings=most)


def measured_need(facts: Facts) -> int:
    """The fewest instances that carry what comes, by what was measured at the count in force.

    All of them where a load is there and nothing is known of the service time.
    """
    state, seen, applied, policy = facts.state, facts.seen, facts.applied, facts.policy
    stable = windows.rate_rps(state.intervals, window_s=policy.stable_window_s, at_s=seen.at_s)
    rate_rps = max(facts.fast_rps, stable or 0.0)
    waiting = seen.counters.pending if seen.counters is not None else 0.0
    if rate_rps <= 0.0 and waiting <= 0.0:
        return 0
    uses_cores = state.cpu.waits is False
    wide = replace(
        policy,
        min_instances=1,
        max_instances=applied.instances,
        cores=policy.cores if uses_cores else max(policy.cores, applied.instances * seen.threads),
    )
    if state.learnt.at(applied.instances, threads=seen.threads, cores=wide.cores) is None:
        return applied.instances
    known = Knowledge(
        learnt=state.learnt, policy=wide, threads=seen.threads, threads_ours=seen.threads_ours
    )
    capacities = known.capacities(applied)
    if not any(carried > 0.0 for carried in capacities.values()):
        capacities = {count: known.throughput_rps(applied, count) for count in capacities}
    needed = fewest(capacities, rate_rps)
    if capacities[needed] < rate_rps or waiting > applied.full_round:
        return applied.instances
    if uses_cores:
        return needed
    return max(needed, math.ceil(_busy(state, seen, policy) / policy.utilisation_limit))


def _busy(state: ControlState, seen: Observation, policy: Policy) -> float:
    """How many instances worked on average over the stable window."""
    since_s = seen.at_s - policy.stable_window_s
    inside = [i for i in state.intervals if i.end_s > since_s and i.statistics is not None]
    span_s = sum(i.span_s for i in inside)
    return sum(i.busy_s for i in inside) / span_s if span_s > 0.0 else 0.0


def _is_settled(facts: Facts) -> bool:
    """Whether it was seen what the last change did: a window has passed, and no queue grows."""
    state, seen, policy = facts.state, facts.seen, facts.policy
    if not state.changes:
        return True
    since_s = state.changes[-1].at_s + policy.settle_s
    if seen.at_s < since_s + policy.stable_window_s:
        return False
    after = [i.pending for i in state.intervals if i.start_s >= since_s]
    return len(after) < 2 or after[-1] <= max(after[0], 1.0)
