"""Bounds that nobody wrote: the owner's configuration says what they are.

A default of ours knows nothing of a model. So without a number in the policy the batch limit is
never raised above what the owner's config says, the count never falls below its count, and it may
grow to that count or to the cores, whichever is more. For a model that waits (for a device, a
network, a disk) the cores say nothing: there it may grow by one beyond what was seen at work, again
and again, and to twice as many where the counts so far did not slow each other down. What the model
has refused is a limit whoever wrote the bounds, and so are the slots of a server: with as many
instances as slots one model could keep all others waiting.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from control.core.policy import (
    MAX_BATCH_SIZE,
    MAX_INSTANCES,
    MIN_INSTANCES,
    MOST_INSTANCES,
    Policy,
)
from control.core.types import Observation, Settings

BATCHED_REQUESTS = 1.05
"""Items per request in the counters, beyond which requests bring batches of their own: those of one
scrape are not of one instant."""
WAITS_BELOW = 0.5
"""CPU seconds per busy second of an instance below which it mostly waits."""
LEAST_BUSY_S = 2.0
"""Busy seconds before that is said: the kernel counts CPU time in hundredths of a second."""
KEPT_BUSY_S = 60.0
GROWTH = 2
"""Times as many instances as are in force, in one step: a guess from c instances errs little at 2c,
and eight are three steps from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """How much CPU the model's processes use while its instances are busy.

    Attributes:
        cpu_s, busy_s: sums over the newest minute of busy time.
    """

    cpu_s: float = 0.0
    busy_s: float = 0.0

    @property
    def waits(self) -> bool | None:
        """Whether an instance mostly waits; None while that is not known."""
        if self.busy_s < LEAST_BUSY_S:
            return None
        return self.cpu_s < WAITS_BELOW * self.busy_s

    def absorb(self, old: Observation | None, new: Observation, *, busy_s: float) -> CpuUse:
        """With what was used between two looks; a total that went back is that of new processes.

        What so many instances used says nothing of fewer: they may have filled the cores, and so
        used less each. More of them can only use less.
        """
        before, now = _count(old), _count(new)
        if before != now:
            return self if before is not None and now is not None and before < now else CpuUse()
        if old is None or old.cpu_s is None or new.cpu_s is None or busy_s <= 0.0:
            return self
        used_s = new.cpu_s - old.cpu_s
        if used_s < 0.0:
            return self
        keep = min(1.0, KEPT_BUSY_S / (self.busy_s + busy_s))
        return CpuUse(cpu_s=keep * (self.cpu_s + used_s), busy_s=keep * (self.busy_s + busy_s))


def _count(seen: Observation | None) -> int | None:
    """The instances of a look; None where they are not known."""
    return seen.applied.instances if seen is not None and seen.applied is not None else None


@functools.lru_cache(maxsize=1024)
def effective(
    policy: Policy,
    *,
    owner: Settings | None,
    applied: Settings | None,
    refused_rows: int | None,
    waits: bool | None,
    trusted: int = 0,
    by_slots: int | None = None,
) -> Policy:
    """The policy with its unwritten bounds filled in.

    Args:
        policy: as the owner wrote it.
        owner: the settings of the owner's own configuration.
        applied: what is in force.
        refused_rows: a batch of so many rows, or more, was refused by the model.
        waits: whether an instance mostly waits; None where that is not known.
        trusted: the most instances whose speed can be foreseen from those that were seen at work.
        by_slots: ``Observation.most_by_slots``, whoever wrote more.

    Example:
        >>> six = Settings(instances=6, max_batch_size=4, dynamic_batching=True,
        ...                max_queue_delay_s=0.0)
        >>> policy = Policy(slo_s=0.1, max_instances=2, cores=2, unwritten=(
        ...     "min_instances", "max_instances", "max_batch_size"))
        >>> found = effective(policy, owner=six, applied=six, refused_rows=None, waits=None)
        >>> found.min_instances, found.max_instances, found.max_batch_size
        (6, 6, 4)
    """
    bounds: dict[str, int] = {}
    if owner is not None and applied is not None:
        if MAX_INSTANCES in policy.unwritten:
            grown = min(trusted, GROWTH * applied.instances) if waits else 0
            wanted = max(policy.cores, owner.instances, applied.instances, grown)
            bounds["max_instances"] = max(min(wanted, MOST_INSTANCES), applied.instances)
        most = bounds.get("max_instances", policy.max_instances)
        if MIN_INSTANCES in policy.unwritten:
            bounds["min_instances"] = max(1, min(owner.instances, most))
        elif MAX_INSTANCES in policy.unwritten:
            bounds["max_instances"] = max(most, policy.min_instances)
        if MAX_BATCH_SIZE in policy.unwritten:
            bounds["max_batch_size"] = max(1, owner.max_batch_size)
        if waits:
            bounds["cores"] = max(policy.cores, bounds.get("max_instances", policy.max_instances))
    if by_slots is not None:
        bounds |= _within_slots(policy, bounds, by_slots)
    if refused_rows is not None:
        size = bounds.get("max_batch_size", policy.max_batch_size)
        bounds["max_batch_size"] = max(1, min(size, refused_rows - 1))
    changed = {name: value for name, value in bounds.items() if getattr(policy, name) != value}
    return replace(policy, **changed) if changed else policy  # type: ignore[arg-type]


def _within_slots(policy: Policy, bounds: dict[str, int], by_slots: int) -> dict[str, int]:
    """The counts that leave others a slot; a written least wins."""
    least = bounds.get(MIN_INSTANCES, policy.min_instances)
    if MIN_INSTANCES in policy.unwritten:
        least = min(least, by_slots)
    most = min(bounds.get(MAX_INSTANCES, policy.max_instances), by_slots)
    return {MIN_INSTANCES: least, MAX_INSTANCES: max(least, most)}


def least_batch_limit(seen: Observation) -> int:
    """The smallest ``max_batch_size`` with which Triton refuses no request that comes.

    One that brings a batch of its own may be as large as the limit in force: sums do not tell.
    """
    counters, loaded, applied, own = seen.counters, seen.statistics, seen.applied, seen.own
    if applied is None:
        return seen.least_batch_size
    # Since the last load, of one instant; and since the server started.
    now = loaded is not None and loaded.inference_count - own.rows_loaded > (
        loaded.success_count - loaded.cache_hits - own.requests_loaded
    )
    ever = counters is not None and counters.inference_count - own.rows > (
        BATCHED_REQUESTS * (counters.success - counters.cache_hits - own.requests)
    )
    return max(seen.least_batch_size, applied.max_batch_size if now or ever else 1)
