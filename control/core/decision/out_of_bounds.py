"""A count that policy or budget do not allow is brought within them, step by step.

The load comes first: a count above ``max_instances`` is never cut below what is measured to be
needed, and never a second time before it was seen what the first cut did. What is needed is
measured at the count in force; how long a batch takes at fewer instances is guessed from the cores
only where the model is known to use them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from control.core.decision.guard import guard
from control.core.load import windows
from control.core.memory.state import ControlState
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.types import MIN_INSTANCES, Clamp, Decision, Observation, Policy, Reason, Settings


def is_outside(applied: Settings, policy: Policy) -> bool:
    """Whether the count is below or above what the policy allows."""
    return not policy.min_instances <= applied.instances <= policy.max_instances


def surplus(seen: Observation, applied: Settings, policy: Policy) -> int:
    """Instances beyond the model's share of the budget; its written least is always its own."""
    if seen.cap is None:
        return 0
    least = 1 if MIN_INSTANCES in policy.unwritten else policy.min_instances
    return max(0, applied.instances - max(seen.cap, least))


def within(
    state: ControlState, seen: Observation, applied: Settings, fast_rps: float, policy: Policy
) -> tuple[Decision, ControlState]:
    """A decision that brings the count within the bounds of policy and budget."""
    count = min(max(applied.instances, policy.min_instances), policy.max_instances)
    outside = count != applied.instances
    needed = 0
    if count < applied.instances:
        needed = min(measured_need(state, seen, applied, fast_rps, policy), applied.instances)
        count = max(count, needed)
    count -= surplus(seen, replace(applied, instances=count), policy)
    limited = outside and count == applied.instances
    unsettled = count < applied.instances and outside and not _is_settled(state, seen, policy)
    clamps: tuple[Clamp, ...] = (Clamp.COOLDOWN,) if unsettled else ()
    guarded = guard(
        applied if unsettled else replace(applied, instances=count),
        applied,
        state,
        policy,
        at_s=seen.at_s,
        granularity=seen.granularity,
        seen=seen,
    )
    reason = Reason.AT_LIMIT if limited else Reason.OUT_OF_BOUNDS
    decision = Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason if outside else Reason.OVER_BUDGET,
        applied=applied,
        desired=guarded.settings,
        terms={
            "fast_rps": fast_rps,
            "needed_instances": float(needed),
            "min_instances": float(policy.min_instances),
            "max_instances": float(policy.max_instances),
        },
        clamps=(*clamps, *guarded.clamps),
        may_act_at_s=guarded.may_act_at_s,
    )
    if decision.changes:
        state = replace(state, safety=replace(state.safety, owed=guarded.settings))
    return decision, state


def measured_need(
    state: ControlState, seen: Observation, applied: Settings, fast_rps: float, policy: Policy
) -> int:
    """The fewest instances that carry what comes, by what was measured at the count in force.

    All of them where a load is there and nothing is known of the service time.
    """
    stable = windows.rate_rps(state.intervals, window_s=policy.stable_window_s, at_s=seen.at_s)
    rate_rps = max(fast_rps, stable or 0.0)
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


def _is_settled(state: ControlState, seen: Observation, policy: Policy) -> bool:
    """Whether it was seen what the last change did: a window has passed, and no queue grows."""
    if not state.changes:
        return True
    since_s = state.changes[-1].at_s + policy.settle_s
    if seen.at_s < since_s + policy.stable_window_s:
        return False
    after = [i.pending for i in state.intervals if i.start_s >= since_s]
    return len(after) < 2 or after[-1] <= max(after[0], 1.0)
