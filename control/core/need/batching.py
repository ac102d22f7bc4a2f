"""The slow knob: which batch size, delay and threads to run with.

Theory of operation. Among B = 1, 2, 4, ... and a few delays, take those that carry (almost) the
most within the SLO at the policy's largest instance count; of these the cheapest at today's load,
in busy instances. Greedy batching makes a large B risky with several instances (the first takes the
pile), and a small d saves work at low load for little latency; so ties go to the smaller d and B.
Threads of a CPU model become cores ÷ largest instance count: then every count that the fast loop
may choose has cores of its own, and adding an instance adds capacity. A reload is dear: it is
proposed only for a clear gain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.need.wanted import Wanted
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.types import Observation, Settings

NEAR_BEST = 0.9
"""A large batch is mostly extrapolated: where the last tenth comes from it alone, it is not taken.
Of MiniLM on a CPU, one request takes 1.94 ms in a batch of 8 and 2.08 ms in one of 32, where a line
through small batches says less; and once a queue is there, every batch is a full one."""
DELAYS_OF_SLO = (0.0, 0.05)
FIRST_PLAN_S = 2.0
DRAINED_IN_S = 2.0
"""What waits when a batching is planned is to be gone after so long. With the arrivals alone, one
MiniLM instance was chosen amid 137 that waited, and a second one 4 s later."""
WORK_SAVED = 0.15
"""A delay must save this share of the busy time, or it is not worth its latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingPlan:
    """The chosen settings, and how they compare.

    Attributes:
        settings: what to run with; its instances are the fewest that carry the load.
        capacity_rps: Λ at the largest instance count with it.
        applied_capacity_rps: the most that any instance count carries as it is now.
    """

    settings: Settings
    capacity_rps: float
    applied_capacity_rps: float

    @property
    def gain(self) -> float:
        """Capacity with the plan as a ratio of the capacity as it is."""
        if self.applied_capacity_rps <= 0:
            return float("inf") if self.capacity_rps > 0 else 1.0
        return self.capacity_rps / self.applied_capacity_rps


def plan_batching(
    applied: Settings, known: Knowledge, *, rate_rps: float, need_rps: float
) -> BatchingPlan:
    """The best settings for this model.

    Args:
        applied: what is in force; must have a batch axis.
        known: service times and bounds.
        rate_rps: today's load, at which the work is compared.
        need_rps: what the new settings must carry at once.
    """
    policy = known.policy
    threads = applied.threads
    if known.threads_ours:
        threads = max(1, policy.cores // policy.max_instances)
    candidates = [
        replace(
            applied,
            max_batch_size=size,
            dynamic_batching=True,
            max_queue_delay_s=round(share * policy.slo_s, 4),
            threads=threads,
        )
        for size in _sizes(policy.max_batch_size, least=known.least_batch_size)
        for share in DELAYS_OF_SLO
    ]
    capacities = {c: known.capacity_rps(c, policy.max_instances) for c in candidates}
    best = max(capacities.values())
    near = [c for c in candidates if capacities[c] >= NEAR_BEST * best]
    busy = {c: known.busy(c, rate_rps) for c in near}
    least = min(busy.values())
    # "Cheap enough" first, then the smaller delay and the smaller batch.
    chosen = min(
        (c for c in near if busy[c] <= least * (1.0 + WORK_SAVED) or busy[c] == least),
        key=lambda c: (c.max_queue_delay_s, c.max_batch_size),
    )
    return BatchingPlan(
        settings=replace(chosen, instances=fewest(known.capacities(chosen), need_rps)),
        capacity_rps=capacities[chosen],
        applied_capacity_rps=max(known.capacities(applied).values()),
    )


def _sizes(largest: int, *, least: int = 1) -> list[int]:
    """1, 2, 4, ... and ``largest`` itself; none below ``least``, which goes before ``largest``.

    Example:
        >>> _sizes(12), _sizes(12, least=6), _sizes(4, least=8)
        ([1, 2, 4, 8, 12], [6, 8, 12], [8])
    """
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    sizes = sizes if largest == sizes[-1] else [*sizes, largest]
    return sorted({least, *(size for size in sizes if size >= least)})


def plan_if_due(
    state: ControlState,
    seen: Observation,
    applied: Settings,
    want: Wanted,
    known: Knowledge,
    *,
    warm: bool,
) -> BatchingPlan | None:
    """Another batching, where the same settings were watched for long enough since the last plan.

    Two seconds of a backlog that no count carries say enough for the first one: each second more
    is one of requests that wait. Nothing is planned while an older copy takes its share, nor while
    instances are to be added.
    """
    policy = known.policy
    if not policy.rebatch or not known.can_rebatch:
        return None
    if want.goal > applied.instances and (warm or want.panic):
        return None
    if state.intervals and state.intervals[-1].old_copy_works:
        return None
    overloaded = want.overloaded or not want.reachable
    if not warm and not (overloaded and want.panic):
        return None
    wait_s = policy.rebatch_after_s
    if overloaded:
        wait_s = min(wait_s, policy.stable_window_s if warm else FIRST_PLAN_S)
    if seen.at_s - max(state.settings_since_s, state.planned_s) < wait_s:
        return None
    return plan_batching(
        applied,
        known,
        rate_rps=want.demand.stable_rps,
        need_rps=want.need_rps + want.demand.excess / DRAINED_IN_S,
    )
