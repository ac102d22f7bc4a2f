"""What was seen of some settings, summed: what the judge compares before and after a change.

Theory of operation. Each interval tells what it can. While the queue is full, the answers per
second are what the settings can carry. What batches of one size take tells the same at any load.
How many requests miss the SLO tells of the settings, but not while a full queue drains: those came
under whatever was before, and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from control.core.judgement import error_budget
from control.core.load.windows import Interval
from serving.statistics import BatchStat

LEAST_QUEUED_S = 2.0
MOSTLY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Batches of one size.

    Attributes:
        count, busy_s: how many, and what they took in all.
        squares: sum over the looks of count times the square of their mean, in seconds squared.
        looks: in how many intervals they were seen.
    """

    count: float = 0.0
    busy_s: float = 0.0
    squares: float = 0.0
    looks: float = 0.0

    def plus(self, stat: BatchStat) -> Batches:
        """With those of one more interval."""
        return Batches(
            count=self.count + stat.count,
            busy_s=self.busy_s + stat.busy_s,
            squares=self.squares + stat.busy_s**2 / stat.count,
            looks=self.looks + 1.0,
        )

    def faded(self, keep: float) -> Batches:
        """All sums times ``keep``."""
        return Batches(**{f.name: getattr(self, f.name) * keep for f in fields(Batches)})

    @property
    def mean_s(self) -> float:
        """Of a batch; there must be one."""
        return self.busy_s / self.count

    @property
    def error_s(self) -> float:
        """Standard error of the mean, infinite for a single look.

        Between looks: a second is fast or slow as a whole, and its batches tell one thing.
        """
        if self.looks <= 1.0:
            return math.inf
        scatter = max(0.0, self.squares / self.count - self.mean_s**2)
        return math.sqrt(scatter / (self.looks - 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Sums over some intervals.

    Attributes:
        span_s: how long they are.
        arrivals, completed: requests that came, and that were answered, those of the response
            cache aside.
        failed, ended: of all that ended, also while a change settled.
        rejected, crowded: of the failed, those that a queue's timeout refused, and of the others
            those that failed beside a full queue.
        came, missed: requests that came or were answered, whichever are more, while no full queue
            drained; and the estimated number of them that missed the SLO.
        queued_s, queued_completed: span and answers of the intervals that began and ended with a
            full queue.
        sizes: what batches took, by their size.
        instance_s: instances times seconds.
        cpu_s, cpu_span_s: busy share of the host times seconds, and the seconds that it is known
            for.
    """

    span_s: float = 0.0
    arrivals: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    rejected: float = 0.0
    crowded: float = 0.0
    ended: float = 0.0
    came: float = 0.0
    missed: float = 0.0
    queued_s: float = 0.0
    queued_completed: float = 0.0
    sizes: Mapping[int, Batches] = field(default_factory=dict)
    instance_s: float = 0.0
    cpu_s: float = 0.0
    cpu_span_s: float = 0.0

    def plus(self, new: Interval, *, slo_s: float, full_round: float) -> Period:
        """With one more interval; the instances take ``full_round`` requests at once."""
        began = error_budget.pending_at_start(new)
        computed = max(0.0, new.completed - new.cache_hits)
        more = self.plus_ended(new, full_round=full_round)
        more = replace(
            more,
            span_s=more.span_s + new.span_s,
            arrivals=more.arrivals + new.uncached,
            completed=more.completed + computed,
            instance_s=more.instance_s + new.instances * new.span_s,
        )
        if new.statistics is not None:
            sizes = dict(more.sizes)
            for size, stat in new.statistics.batches.items():
                sizes[size] = sizes.get(size, Batches()).plus(stat)
            more = replace(more, sizes=sizes)
        if new.cpu_fraction is not None:
            more = replace(
                more,
                cpu_s=more.cpu_s + new.cpu_fraction * new.span_s,
                cpu_span_s=more.cpu_span_s + new.span_s,
            )
        if min(began, new.pending) >= full_round:
            more = replace(
                more,
                queued_s=more.queued_s + new.span_s,
                queued_completed=more.queued_completed + computed,
            )
        if began >= full_round and new.pending < began:
            return more
        came = max(new.arrivals, new.completed)
        missed = error_budget.missed_fraction(new, slo_s=slo_s) * came
        return replace(more, came=more.came + came, missed=more.missed + missed)

    def plus_ended(self, new: Interval, *, full_round: float) -> Period:
        """With the failures of one more interval and nothing else of it."""
        rejected = min(new.rejected, new.failed)
        full = max(error_budget.pending_at_start(new), new.pending) >= full_round
        return replace(
            self,
            failed=self.failed + new.failed,
            rejected=self.rejected + rejected,
            crowded=self.crowded + (new.failed - rejected if full else 0.0),
            ended=self.ended + new.completed + new.failed,
        )

    def without(self, failed: float) -> Period:
        """As if so many of the failed had never come."""
        return replace(self, failed=self.failed - failed, ended=self.ended - failed)

    def faded(self, keep: float) -> Period:
        """All sums times ``keep``."""
        sums = {f.name: getattr(self, f.name) * keep for f in fields(Period) if f.name != "sizes"}
        return Period(**sums, sizes={size: seen.faded(keep) for size, seen in self.sizes.items()})

    @property
    def rate_rps(self) -> float:
        """Arrivals per second; 0 for an empty period."""
        return self.arrivals / self.span_s if self.span_s > 0 else 0.0

    @property
    def instances(self) -> float:
        """On average; 0 for an empty period."""
        return self.instance_s / self.span_s if self.span_s > 0 else 0.0

    @property
    def cpu_fraction(self) -> float | None:
        """Busy share of the host, 0 to 1; None where it is not known."""
        return self.cpu_s / self.cpu_span_s if self.cpu_span_s > 0 else None

    @property
    def batches(self) -> float:
        """Of all sizes."""
        return sum(seen.count for seen in self.sizes.values())

    @property
    def batch_s(self) -> float:
        """What a batch took on average, of whatever size; 0 without one."""
        busy_s = sum(seen.busy_s for seen in self.sizes.values())
        return busy_s / self.batches if self.batches else 0.0

    @property
    def batch_rows(self) -> float:
        """How many items a batch had on average; 0 without one."""
        rows = sum(size * seen.count for size, seen in self.sizes.items())
        return rows / self.batches if self.batches else 0.0

    @property
    def failed_fraction(self) -> float:
        """Of the requests that ended."""
        return self.failed / self.ended if self.ended >= 1 else 0.0

    @property
    def missed_fraction(self) -> float:
        """Of the requests that came while no full queue drained."""
        return min(1.0, self.missed / self.came) if self.came >= 1 else 0.0

    @property
    def saturated(self) -> bool:
        """Whether the queue was full at most looks: at a few of them it is by chance."""
        return self.queued_s > 0.0 and self.queued_s >= MOSTLY * self.span_s

    @property
    def queued_rps(self) -> float | None:
        """Answers per second while the queue was full; None where it mostly was not."""
        if not self.saturated or self.queued_s < LEAST_QUEUED_S:
            return None
        return self.queued_completed / self.queued_s

    @property
    def answered_rps(self) -> float:
        """Answers per second; 0 for an empty period."""
        return self.completed / self.span_s if self.span_s > 0 else 0.0
