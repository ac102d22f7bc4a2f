"""Looks become intervals, intervals become rates; a reset or a gap drops the interval.

All functions are of values; the newest interval is last.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from dataclasses import dataclass, fields, replace
from typing import Any

from control.core.types import Observation
from serving import metrics, statistics
from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics

_END_S = operator.attrgetter("end_s")
_COUNTERS = operator.attrgetter(*(f.name for f in fields(ModelCounters)))
_STATISTICS = operator.attrgetter(
    *(f.name for f in fields(ModelStatistics) if f.name not in ("batches", "versions"))
)
_GAUGES = (
    "arrivals",
    "request_p99_s",
    "cpu_fraction",
    "memory_free_bytes",
    "memory_copy_bytes",
    "gpu_fraction",
)
OLD_COPY = 0.1
"""Share of the items that an older copy must have done to count."""
LARGEST = 1e15
"""Of a counter or a sum of seconds; no server gets there, and squares of it are still finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What happened between two looks.

    Attributes:
        start_s, end_s: its ends.
        arrivals: requests that came: as a gateway counted them, else answered + failed + change of
            waiting. Completions alone would hide an overload.
        completed: requests that were answered.
        failed, rejected: requests that failed, and those of them that a queue's timeout refused.
        pending: waiting at the end (a gauge).
        statistics: executions in the interval; None when the model was reloaded within it.
        instances, threads: applied at its end.
        request_s, queue_s, compute_s: seconds of the requests that were answered, summed over them.
        inferences, executions: items, and the batches that they made.
        cache_hits, cache_misses: requests that the response cache answered, and did not.
        cache_s: what looking up and storing took, summed over them.
        cpu_fraction: busy share of the host, 0 to 1; None where it is not known.
    """

    start_s: float
    end_s: float
    arrivals: float
    completed: float
    failed: float
    pending: float
    statistics: ModelStatistics | None
    instances: int
    threads: int
    request_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    inferences: float = 0.0
    executions: float = 0.0
    rejected: float = 0.0
    cache_hits: float = 0.0
    cache_misses: float = 0.0
    cache_s: float = 0.0
    cpu_fraction: float | None = None

    @property
    def span_s(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s

    @property
    def uncached(self) -> float:
        """Arrivals that the response cache did not answer: the load of the instances.

        What waits has missed already, as Triton looks into the cache before it queues.
        """
        return max(0.0, self.arrivals - self.cache_hits)

    @property
    def old_copy_works(self) -> bool:
        """Whether an older copy of the model still works off its queue, beside the one in force.

        The counters are of all copies, the statistics of the newest only. By more than a batch and
        a tenth of the items, as both are not sampled at the same instant.
        """
        if self.statistics is None:
            return False
        others = self.inferences - self.statistics.inference_count
        batch = max(self.statistics.batches, default=1)
        return others > max(batch, OLD_COPY * self.inferences)

    @property
    def busy_s(self) -> float:
        """Seconds that instances worked, summed over them; 0 when it is not known."""
        if self.statistics is None:
            return 0.0
        return sum(stat.busy_s for stat in self.statistics.batches.values())


def usable(seen: Observation) -> Observation | None:
    """The look, or None where a time, a counter or a setting is NaN, infinite or beyond reason.

    A gauge that is none, which a decision can do without, is left out of the look.
    """
    numbers: list[float] = [seen.at_s, seen.sampled_s]
    if seen.counters is not None:
        numbers += _COUNTERS(seen.counters)
    if seen.statistics is not None:
        numbers += _STATISTICS(seen.statistics)
        for size, stat in seen.statistics.batches.items():
            numbers += (size, stat.count, stat.busy_s)
    if seen.applied is not None:
        numbers.append(seen.applied.max_queue_delay_s)
    if not all(-LARGEST <= number <= LARGEST for number in numbers):
        return None
    totals = _COUNTERS(seen.counters) if seen.counters is not None else ()
    if any(total < 0 for total in totals):  # no counter goes below nothing
        return None
    left_out: dict[str, Any] = {
        name: None
        for name in _GAUGES
        if (value := getattr(seen, name)) is not None and not 0.0 <= value <= LARGEST
    }
    return replace(seen, **left_out) if left_out else seen


def interval(old: Observation, new: Observation, *, stale_s: float) -> Interval | None:
    """The interval between two looks, or None when it cannot be trusted.

    It cannot when a part is missing, a counter went back, time stood still, or the gap is longer
    than ``stale_s``.
    """
    span_s = new.sampled_s - old.sampled_s
    if not 0 < span_s <= stale_s or new.applied is None:
        return None
    if old.counters is None or new.counters is None:
        return None
    change = metrics.delta(old.counters, new.counters)
    if change is None:
        return None
    executed = None
    if old.statistics is not None and new.statistics is not None:
        executed = statistics.delta(old.statistics, new.statistics)
    hits, misses, cache_s = _cached(old.counters, new.counters, executed)
    # What the controller itself sent is no load; what its batches took is worth knowing.
    own, own_s = new.own.requests - old.own.requests, new.own.seconds - old.own.seconds
    if own and executed is not None:
        executed = replace(executed, success_count=max(0, executed.success_count - round(own)))
    return Interval(
        start_s=old.sampled_s,
        end_s=new.sampled_s,
        arrivals=_arrived(old, new, change, own=own),
        completed=max(0.0, change.success - own),
        # What only one of both sources counts as failed has failed all the same.
        failed=max(change.failure, 0.0 if executed is None else float(executed.fail_count)),
        pending=new.counters.pending,
        statistics=executed,
        instances=new.applied.instances,
        threads=new.threads,
        request_s=max(0.0, change.request_s - own_s),
        queue_s=change.queue_s,
        compute_s=max(0.0, _computed_s(change) - own_s),
        inferences=change.inference_count,
        executions=change.exec_count,
        rejected=change.rejected,
        cache_hits=hits,
        cache_misses=misses,
        cache_s=cache_s,
        cpu_fraction=new.cpu_fraction,
    )


def _cached(
    old: ModelCounters, new: ModelCounters, executed: ModelStatistics | None
) -> tuple[float, float, float]:
    """Hits, misses and their seconds: by the statistics where these go on, else the counters.

    A reload that switches the cache on leaves the model without these counters: Triton keeps the
    old copy's reporter, which has none.
    """
    if executed is not None and executed.cache_hits + executed.cache_misses:
        return float(executed.cache_hits), float(executed.cache_misses), executed.cache_s
    return (
        _risen(old.cache_hits, new.cache_hits),
        _risen(old.cache_misses, new.cache_misses),
        _risen(old.cache_s, new.cache_s),
    )


def _risen(old: float, new: float) -> float:
    """By how much a total has risen, at least; a copy of the model that is new begins at zero."""
    return new - old if new >= old else new


def _computed_s(change: ModelCounters) -> float:
    """Seconds of computing, summed over requests."""
    return change.compute_input_s + change.compute_infer_s + change.compute_output_s


def _arrived(old: Observation, new: Observation, change: ModelCounters, *, own: float) -> float:
    """Requests that came, by the gateway's count where both looks have one and it went on."""
    if old.arrivals is not None and new.arrivals is not None:
        counted = new.arrivals - old.arrivals
        if math.isfinite(counted) and counted >= 0:
            return counted
    return max(0.0, change.success + change.failure + change.pending - own)


def rate_rps(intervals: tuple[Interval, ...], *, window_s: float, at_s: float) -> float | None:
    """Arrivals per second over the intervals that end within ``window_s`` before ``at_s``.

    Those that the response cache answered are no load. None when there are none.

    Example:
        Intervals of 1 s with 80, 100 and 120 arrivals and a window of 2 s give 110.0.
    """
    inside = _since(intervals, at_s - window_s)
    seconds = sum([i.end_s - i.start_s for i in inside])
    return sum([i.uncached for i in inside]) / seconds if seconds else None


def _since(intervals: tuple[Interval, ...], since_s: float) -> tuple[Interval, ...]:
    """Those that end later than this; they are in the order of time."""
    return intervals[bisect_right(intervals, since_s, key=_END_S) :]


def newest_rps(
    intervals: tuple[Interval, ...],
    before: tuple[Interval, ...],
    *,
    window_s: float,
    at_s: float,
) -> float | None:
    """``rate_rps`` at a look; None where its sample is too old.

    A sample that was not there ``before`` counts from when it was true: a tick over many models, or
    a source that is scraped seldom, may be later than the window is long. One that is seen again
    soon counts no more.
    """
    if intervals and intervals[-1:] != before[-1:]:
        at_s = intervals[-1].end_s
    return rate_rps(intervals, window_s=window_s, at_s=at_s)


def covered_s(intervals: tuple[Interval, ...], *, window_s: float, at_s: float) -> float:
    """Seconds of the window that the intervals cover."""
    return sum(
        i.end_s - max(i.start_s, at_s - window_s) for i in _since(intervals, at_s - window_s)
    )


def keep(intervals: tuple[Interval, ...], *, window_s: float, at_s: float) -> tuple[Interval, ...]:
    """The intervals that still matter; none from a future that a clock set back has left."""
    return tuple(i for i in intervals if at_s - window_s < i.end_s <= at_s)
