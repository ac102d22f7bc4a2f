"""What is known of a model: what some settings would carry, and how busy they would be."""

from __future__ import annotations

from dataclasses import dataclass

from control.core.policy import Policy
from control.core.queue_model.capacity import capacities_rps, capacity_rps
from control.core.service.learnt import Learnt, ServiceTime
from control.core.types import Settings

WORTH = 0.05
"""An instance that adds less than this share of what the others carry each is not added. On 2 cores
a second instance of 2 threads was predicted to add 1 %, and took 2 s to load, amid a backlog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a plan is made from.

    Attributes:
        learnt: service times.
        policy: bounds and SLO.
        threads: that one instance works with now.
        threads_ours: whether they may be set.
        can_rebatch: whether the batching may change at all.
        least_batch_size: the smallest batch limit that ensembles and requests allow.
        refuses: whether late requests are to be refused; None to leave that as it is.
        shares_slots: whether its executions take turns with those of other models.
    """

    learnt: Learnt
    policy: Policy
    threads: int
    threads_ours: bool
    can_rebatch: bool = True
    least_batch_size: int = 1
    refuses: bool | None = None
    shares_slots: bool = False

    @property
    def largest_measured(self) -> int:
        """The largest batch whose time was measured; 0 without any."""
        return self.learnt.largest_measured

    def is_measured(self, applied: Settings) -> bool:
        """Whether the times of the batches that matter are measured: up to the limit in force.

        A batch that alone takes more than half the SLO is large enough to know.
        """
        largest = self.largest_measured
        if largest >= min(self.policy.max_batch_size, applied.max_batch_size):
            return True
        took_s = self.service(applied.instances, self.threads).of(largest)
        return largest > 1 and took_s > self.policy.slo_s / 2

    @property
    def all_sizes_measured(self) -> bool:
        """Whether batches of every power of two up to the largest were measured."""
        powers = range(self.largest_measured.bit_length())
        return all(self.learnt.is_measured(2**n) for n in powers)

    def service(self, instances: int, threads: int) -> ServiceTime:
        """ℓ for a setting. Needs evidence of at least one batch."""
        found = self.learnt.at(instances, threads=threads, cores=self.policy.cores)
        assert found is not None
        return found

    def capacity_rps(self, settings: Settings, instances: int) -> float:
        """Λ with these settings at this instance count, in a slow second."""
        carried_rps = capacity_rps(
            self.service(instances, settings.threads or self.threads),
            instances=instances,
            largest_batch=settings.largest_batch,
            max_queue_delay_s=settings.max_queue_delay_s,
            policy=self.policy,
        )
        return carried_rps / self.learnt.slow.slower

    def throughput_rps(self, settings: Settings, instances: int) -> float:
        """Requests a second at full batches, whatever they wait."""
        full = settings.largest_batch
        took_s = self.service(instances, settings.threads or self.threads).of(full)
        return instances * full / took_s if took_s > 0 else 0.0

    def capacities(self, settings: Settings) -> dict[int, float]:
        """Λ by instance count, for every count that the policy allows and the applied one."""
        allowed = range(self.policy.min_instances, self.policy.max_instances + 1)
        counts = sorted({*allowed, settings.instances})
        threads = settings.threads or self.threads
        surface = self.learnt.surface(threads=threads, cores=self.policy.cores)
        if surface is None:  # a sibling's curve
            return {count: self.capacity_rps(settings, count) for count in counts}
        carried = capacities_rps(
            surface.curve,
            {count: surface.factor(count) for count in counts},
            largest_batch=settings.largest_batch,
            max_queue_delay_s=settings.max_queue_delay_s,
            policy=self.policy,
        )
        slower = self.learnt.slow.slower
        return {count: rps / slower for count, rps in carried.items()}


def fewest(capacities: dict[int, float], need_rps: float) -> int:
    """The smallest count that carries the need, else the one that carries most.

    A count at which one more instance adds less than ``WORTH`` of what the others carry each is
    never chosen: where cores are shared out already, the curves' errors alone would decide.

    Example:
        >>> fewest({1: 100.0, 2: 190.0, 3: 190.0}, 150.0), fewest({1: 100.0, 2: 101.0}, 150.0)
        (2, 1)
    """
    kept = min(capacities)
    for count in sorted(capacities):
        if capacities[kept] >= need_rps:
            break
        each_rps = capacities[kept] / kept
        gained_rps = capacities[count] - capacities[kept]
        if gained_rps > WORTH * each_rps * (count - kept):
            kept = count
    return kept
