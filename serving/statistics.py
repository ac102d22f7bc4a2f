"""Triton's ModelStatistics as typed values: what each executed batch size took, once a batch.

Pure. A full reload starts these from zero; an in-place change resets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStat:
    """Executions of one batch size.

    Attributes:
        count: batches executed.
        busy_s: seconds of input, inference and output over all of them.
    """

    count: int
    busy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """Counters of one model since it was loaded, summed over its versions.

    Attributes:
        inference_count: inferences (a request of batch 8 counts 8).
        execution_count: executed batches.
        success_count: requests answered.
        fail_count: requests that failed.
        queue_s: seconds that requests waited, summed over requests.
        batches: by batch size.
        cache_hits, cache_misses: requests that the response cache answered, and did not.
        cache_s: what looking up and storing took, summed over them.
        versions: that are served, ascending.
    """

    inference_count: int = 0
    execution_count: int = 0
    success_count: int = 0
    fail_count: int = 0
    queue_s: float = 0.0
    batches: Mapping[int, BatchStat] = field(default_factory=dict)
    cache_hits: int = 0
    cache_misses: int = 0
    cache_s: float = 0.0
    versions: tuple[int, ...] = ()


def from_response(model_stats: Any) -> ModelStatistics:
    """The repeated ``model_stats`` of a ModelStatisticsResponse for one model, summed."""
    batches: dict[int, BatchStat] = {}
    for version in model_stats:
        for stat in version.batch_stats:
            ns = stat.compute_input.ns + stat.compute_infer.ns + stat.compute_output.ns
            size, count = int(stat.batch_size), int(stat.compute_infer.count)
            before = batches.get(size, BatchStat(count=0, busy_s=0.0))
            batches[size] = BatchStat(count=before.count + count, busy_s=before.busy_s + ns * 1e-9)
    return ModelStatistics(
        inference_count=sum(int(v.inference_count) for v in model_stats),
        execution_count=sum(int(v.execution_count) for v in model_stats),
        success_count=sum(int(v.inference_stats.success.count) for v in model_stats),
        fail_count=sum(int(v.inference_stats.fail.count) for v in model_stats),
        queue_s=sum(int(v.inference_stats.queue.ns) for v in model_stats) * 1e-9,
        batches=batches,
        cache_hits=sum(int(v.inference_stats.cache_hit.count) for v in model_stats),
        cache_misses=sum(int(v.inference_stats.cache_miss.count) for v in model_stats),
        cache_s=1e-9
        * sum(
            int(v.inference_stats.cache_hit.ns) + int(v.inference_stats.cache_miss.ns)
            for v in model_stats
        ),
        versions=tuple(sorted(int(v.version) for v in model_stats if v.version.isdecimal())),
    )


def delta(old: ModelStatistics, new: ModelStatistics) -> ModelStatistics | None:
    """What happened between two reads, or None when any counter went back (a reload)."""
    if (
        new.inference_count < old.inference_count
        or new.execution_count < old.execution_count
        or new.success_count < old.success_count
        or any(
            size not in new.batches or new.batches[size].count < stat.count
            for size, stat in old.batches.items()
        )
    ):
        return None
    empty = BatchStat(count=0, busy_s=0.0)
    return ModelStatistics(
        inference_count=new.inference_count - old.inference_count,
        execution_count=new.execution_count - old.execution_count,
        success_count=new.success_count - old.success_count,
        fail_count=max(0, new.fail_count - old.fail_count),
        queue_s=max(0.0, new.queue_s - old.queue_s),
        cache_hits=max(0, new.cache_hits - old.cache_hits),
        cache_misses=max(0, new.cache_misses - old.cache_misses),
        cache_s=max(0.0, new.cache_s - old.cache_s),
        versions=new.versions,
        batches={
            size: BatchStat(
                count=stat.count - old.batches.get(size, empty).count,
                busy_s=max(0.0, stat.busy_s - old.batches.get(size, empty).busy_s),
            )
            for size, stat in new.batches.items()
            if stat.count > old.batches.get(size, empty).count
        },
    )
