"""What was seen of some settings, summed: what the judge compares before and after a change.

Theory of operation. Each interval tells what it can. While the queue is full, the answers per
second are what the settings can carry, and request times tell how long the queue is. While a full
queue drains, they tell how long it was, under whatever was before: they are left out. Only without
a full queue do request times tell of the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from control.core.judgement import error_budget
from control.core.load.windows import Interval

LEAST_QUEUED_S = 2.0
MOSTLY = 0.5
DRAINED = 0.25


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
        came, timed: requests that came or were answered, whichever are more, and those that were
            answered, both while no full queue drained.
        missed, request_s: of these, the estimated number that missed the SLO, and the summed
            request times.
        queued_s, queued_completed: span and answers of the intervals that began and ended with a
            full queue.
        busy_s, batches, rows: what instances worked, at how many batches of how many items in all.
    """

    span_s: float = 0.0
    arrivals: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    rejected: float = 0.0
    crowded: float = 0.0
    ended: float = 0.0
    came: float = 0.0
    timed: float = 0.0
    missed: float = 0.0
    request_s: float = 0.0
    queued_s: float = 0.0
    queued_completed: float = 0.0
    busy_s: float = 0.0
    batches: float = 0.0
    rows: float = 0.0

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
        )
        if new.statistics is not None:
            sizes = new.statistics.batches.items()
            more = replace(
                more,
                busy_s=more.busy_s + new.busy_s,
                batches=more.batches + sum(stat.count for _, stat in sizes),
                rows=more.rows + sum(size * stat.count for size, stat in sizes),
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
        return replace(
            more,
            came=more.came + came,
            timed=more.timed + new.completed,
            missed=more.missed + missed,
            request_s=more.request_s + new.request_s,
        )

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
        return Period(**{f.name: getattr(self, f.name) * keep for f in fields(Period)})

    @property
    def rate_rps(self) -> float:
        """Arrivals per second; 0 for an empty period."""
        return self.arrivals / self.span_s if self.span_s > 0 else 0.0

    @property
    def mean_s(self) -> float | None:
        """Mean request time; None without an answer whose time tells."""
        return self.request_s / self.timed if self.timed >= 1 else None

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
    def drained(self) -> bool:
        """Whether a full queue sank at nearly all looks, so that few times tell."""
        return self.came < DRAINED * self.queued_completed

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
