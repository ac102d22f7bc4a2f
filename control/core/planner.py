"""The slow knob: which batch size and delay to run with.

Theory of operation. Among B = 1, 2, 4, ... and a few delays, take those that carry (almost) the
most within the SLO at the policy's largest instance count; of these the cheapest at today's load,
in busy cores. Greedy batching makes a large B risky with several instances (the first takes the
pile), and a small d saves work at low load for little latency; so ties go to the smaller B and d.
A reload is dear: it is proposed only for a clear gain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core import queueing
from control.core.capacity import capacity_rps
from control.core.service_time import ServiceTime
from control.core.types import Policy, Settings

NEAR_BEST = 0.95
DELAYS_OF_SLO = (0.0, 0.05)
WORK_SAVED = 0.15
"""A delay must save this share of the busy time, or it is not worth its latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingPlan:
    """The chosen batching, and how it compares.

    Attributes:
        settings: the applied settings with the new batching.
        capacity_rps: Λ at the largest instance count with it.
        applied_capacity_rps: Λ at the largest instance count as it is now.
        busy_cores: predicted at today's load.
        applied_busy_cores: the same as it is now; infinite when it cannot carry the load.
    """

    settings: Settings
    capacity_rps: float
    applied_capacity_rps: float
    busy_cores: float
    applied_busy_cores: float

    @property
    def gain(self) -> float:
        """Capacity with the plan as a ratio of the capacity as it is."""
        if self.applied_capacity_rps <= 0:
            return float("inf") if self.capacity_rps > 0 else 1.0
        return self.capacity_rps / self.applied_capacity_rps


def plan_batching(
    applied: Settings,
    service_at_most: ServiceTime,
    service_now: ServiceTime,
    rate_rps: float,
    policy: Policy,
) -> BatchingPlan:
    """The best batching for this model.

    Args:
        applied: what is in force; must have a batch axis.
        service_at_most: ℓ at ``policy.max_instances``.
        service_now: ℓ at the applied instance count.
        rate_rps: today's load.
        policy: the bounds and the SLO.
    """

    def at_most(settings: Settings) -> float:
        return capacity_rps(
            service_at_most,
            instances=policy.max_instances,
            largest_batch=settings.largest_batch,
            max_queue_delay_s=settings.max_queue_delay_s,
            policy=policy,
        )

    sizes = _sizes(policy.max_batch_size)
    candidates = [
        replace(
            applied,
            max_batch_size=size,
            dynamic_batching=True,
            max_queue_delay_s=round(share * policy.slo_s, 4),
        )
        for size in sizes
        for share in DELAYS_OF_SLO
    ]
    capacities = {candidate: at_most(candidate) for candidate in candidates}
    best = max(capacities.values())
    near = [c for c in candidates if capacities[c] >= NEAR_BEST * best]
    busy = {c: _busy_cores(c, service_now, rate_rps, policy) for c in near}
    least = min(busy.values())
    # "Cheap enough" first, then the smaller delay and the smaller batch.
    chosen = min(
        (c for c in near if busy[c] <= least * (1.0 + WORK_SAVED) or busy[c] == least),
        key=lambda c: (c.max_queue_delay_s, c.max_batch_size),
    )
    return BatchingPlan(
        settings=chosen,
        capacity_rps=capacities[chosen],
        applied_capacity_rps=at_most(applied),
        busy_cores=busy[chosen],
        applied_busy_cores=_busy_cores(applied, service_now, rate_rps, policy),
    )


def _busy_cores(settings: Settings, service: ServiceTime, rate_rps: float, policy: Policy) -> float:
    """Predicted busy instances at this load; infinite when p99 misses the margin."""
    if rate_rps <= 0:
        return 0.0
    predicted = queueing.predict(
        rate_rps,
        service,
        instances=settings.instances,
        largest_batch=settings.largest_batch,
        max_queue_delay_s=settings.max_queue_delay_s,
    )
    if predicted.p99_s > policy.slo_s * (1.0 - policy.margin_fraction):
        return float("inf")
    return predicted.busy_fraction * settings.instances


def _sizes(largest: int) -> list[int]:
    """1, 2, 4, ... and ``largest`` itself.

    Example:
        >>> _sizes(12)
        [1, 2, 4, 8, 12]
    """
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest == sizes[-1] else [*sizes, largest]
