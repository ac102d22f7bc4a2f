"""Whether a change made things better or worse, by what was seen before it and after it.

Theory of operation. After a change has settled it is watched for a number of requests or seconds.
It is worse when requests fail that did not, when the error budget begins to burn, or when requests
take longer than before and longer than was predicted, at a load that is not higher. More instances
are never worse because the queue of an overload still drains, or fails those who waited too long in
it: only when the saturated model answers fewer requests with them than without (instances that
share full cores or a full device can).
The same holds for any change that found the queue full: request times tell of the backlog.
Nothing is worse for a rise of the load: that is the fast loop's business.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields, replace

from control.core import burn_rate
from control.core.types import Policy, Settings
from control.core.windows import Interval

SIMILAR = 0.1
"""Loads that differ by less than this share are compared."""
SLOWER_THAN_PREDICTED = 1.2
SLOWER_THAN_BEFORE = 1.2
FASTER = 0.9
MATTERS_OF_SLO = 0.05
"""A difference below this share of the SLO is noise of the transport, not the change's doing."""
CLEARLY_MISSED = 5.0
"""Fewer instances are worse only where this many times the budgeted share misses the SLO: slower
is what was expected of them, and a minute of noise must not cost ten minutes of an instance."""
LEAST_REQUESTS = 20.0
LEAST_FAILED = 5.0
MORE_FAILED = 0.01
LEAST_QUEUED_S = 2.0
MOSTLY = 0.5
COLLAPSED = 0.1
"""Of the time that a batch took before: a model that answers so fast does not compute any more.
Instances that no longer share the cores with others become faster by less."""
LEAST_BATCHES = 20.0
SIZE_KEPT = 0.9
"""Of the mean batch size before: batches that are no smaller."""


class Verdict(enum.Enum):
    """What a change turned out to be."""

    BETTER = "better"
    NEUTRAL = "neutral"
    WORSE = "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Sums over some intervals.

    Attributes:
        span_s: how long they are.
        arrivals, completed: requests.
        failed, ended: of all that ended, also while a queue drained or a change settled.
        rejected, crowded: of the failed, those that a queue's timeout refused, and of the others
            those that failed beside a full queue.
        missed: of those that were answered, the estimated number that missed the SLO.
        request_s: request times of the answered ones, summed.
        queued_s, queued_completed: span and answers of the intervals with a full queue throughout.
        busy_s, batches, rows: what instances worked, at how many batches of how many items in all.
    """

    span_s: float = 0.0
    arrivals: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    rejected: float = 0.0
    crowded: float = 0.0
    ended: float = 0.0
    missed: float = 0.0
    request_s: float = 0.0
    queued_s: float = 0.0
    queued_completed: float = 0.0
    busy_s: float = 0.0
    batches: float = 0.0
    rows: float = 0.0

    def plus(self, new: Interval, *, slo_s: float, full_round: float) -> Period:
        """With one more interval; ``full_round`` is how many requests all instances take at once.

        What is answered while a queue drains tells of the overload before: only its rate counts.
        """
        began = burn_rate.pending_at_start(new)
        queued = min(began, new.pending) >= full_round
        more = self.plus_ended(new, full_round=full_round)
        if new.statistics is not None:
            sizes = new.statistics.batches.items()
            more = replace(
                more,
                busy_s=more.busy_s + new.busy_s,
                batches=more.batches + sum(stat.count for _, stat in sizes),
                rows=more.rows + sum(size * stat.count for size, stat in sizes),
            )
        if queued:
            more = replace(
                more,
                queued_s=more.queued_s + new.span_s,
                queued_completed=more.queued_completed + new.completed,
            )
        if began >= full_round and new.pending < began:
            return more
        missed = burn_rate.missed_fraction(new, slo_s=slo_s) * max(new.arrivals, new.completed)
        return replace(
            more,
            span_s=more.span_s + new.span_s,
            arrivals=more.arrivals + new.arrivals,
            completed=more.completed + new.completed,
            missed=more.missed + missed,
            request_s=more.request_s + new.request_s,
        )

    def plus_ended(self, new: Interval, *, full_round: float) -> Period:
        """With the failures of one more interval and nothing else of it."""
        rejected = min(new.rejected, new.failed)
        full = max(burn_rate.pending_at_start(new), new.pending) >= full_round
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
        """Mean request time; None without an answer."""
        return self.request_s / self.completed if self.completed >= 1 else None

    @property
    def failed_fraction(self) -> float:
        """Of the requests that ended."""
        return self.failed / self.ended if self.ended >= 1 else 0.0

    @property
    def missed_fraction(self) -> float:
        """Of the requests that came or were answered, whichever are more."""
        total = max(self.arrivals, self.completed)
        return min(1.0, self.missed / total) if total >= 1 else 0.0

    @property
    def queued_rps(self) -> float | None:
        """Answers per second while the queue was full; None when it hardly was."""
        return self.queued_completed / self.queued_s if self.queued_s >= LEAST_QUEUED_S else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A change that is being judged.

    Attributes:
        since_s: when it ended.
        settings: that it brought into force.
        good: what to go back to when it is worse.
        before: the time before it began.
        after: the time since it has settled.
        predicted_s: mean request time that was predicted for it; None where nobody did.
        burning: whether the error budget burnt already when it began.
    """

    since_s: float
    settings: Settings
    good: Settings
    before: Period = Period()
    after: Period = Period()
    predicted_s: float | None = None
    burning: bool = False

    @property
    def grows(self) -> bool:
        """Whether it only added instances."""
        return self.settings.instances > self.good.instances and not self.reload

    @property
    def reload(self) -> bool:
        """Whether it changed more than the instance count."""
        return not same_batching(self.settings, self.good)

    @property
    def raised_batch(self) -> bool:
        """Whether it raised the batch limit."""
        return self.settings.max_batch_size > self.good.max_batch_size

    def with_interval(self, new: Interval, policy: Policy) -> Watch:
        """The watch after one more interval; until all has settled only failures count."""
        full_round = float(self.settings.largest_batch * self.settings.instances)
        if new.start_s < self.since_s + policy.settle_s or new.old_copy_works:
            return replace(self, after=self.after.plus_ended(new, full_round=full_round))
        after = self.after.plus(new, slo_s=policy.slo_s, full_round=full_round)
        return replace(self, after=after)


def same_batching(one: Settings, other: Settings) -> bool:
    """Whether two settings differ in nothing but the instance count."""
    return replace(one, instances=other.instances) == other


def judge(watch: Watch, policy: Policy, *, at_s: float, burning: bool) -> Verdict | None:
    """What the change turned out to be; None while that is open.

    Args:
        watch: the change with what was seen since.
        policy: the SLO, and how long to watch.
        at_s: of this look.
        burning: whether the error budget burns now.
    """
    after = watch.after
    heavier = _heavier(watch)
    if _fails(watch, heavier=heavier) or _collapsed(watch):
        return Verdict.WORSE
    grows = watch.grows or _is_cheaper(watch, policy) or _was_saturated(watch)
    seen = max(after.completed, after.arrivals)
    if burning and not watch.burning and not heavier and not grows:
        # What a reload itself made slow is over: the new settings must burn by themselves.
        limit = policy.burn_limit * (1.0 - policy.slo_target_fraction)
        if seen >= LEAST_REQUESTS and after.missed_fraction > limit:
            return Verdict.WORSE
    settled_s = watch.since_s + policy.settle_s
    if at_s < settled_s + policy.stable_window_s:  # a queue's mean over less is mostly chance
        return None
    # What waited outside of a server that was busy loading comes at once, and is no higher load.
    if (seen < policy.watch_requests or heavier) and at_s < settled_s + policy.watch_s:
        return None
    if seen < LEAST_REQUESTS or heavier:
        return Verdict.NEUTRAL
    if grows:
        return Verdict.WORSE if _carries_less(watch) else _better(watch)
    return Verdict.WORSE if _slower(watch, policy) else _better(watch)


def fails(watch: Watch) -> bool:
    """Whether requests fail since the change that did not fail before it."""
    return _fails(watch, heavier=_heavier(watch))


def _collapsed(watch: Watch) -> bool:
    """Whether batches that are no smaller take next to no time any more.

    A model that answers with errors of its own is counted as successful by Triton: that it does not
    compute is all that can be seen of it here. Another version may well be so much faster.
    """
    before, after = watch.before, watch.after
    if watch.settings.version != watch.good.version:
        return False
    if min(before.batches, after.batches) < LEAST_BATCHES or before.busy_s <= 0.0:
        return False
    if after.rows / after.batches < SIZE_KEPT * before.rows / before.batches:
        return False
    return after.busy_s / after.batches < COLLAPSED * before.busy_s / before.batches


def _was_saturated(watch: Watch) -> bool:
    """Whether the queue was full for most of the time before: how many are answered then counts.

    Request times tell of the backlog, which a reload finds and leaves. A new batching that
    answered 450/s after 250/s was taken back for them.
    """
    before = watch.before
    return before.queued_rps is not None and before.queued_s > MOSTLY * before.span_s


def _is_cheaper(watch: Watch, policy: Policy) -> bool:
    """Whether a cheaper version was changed to: it is there to carry more, as an instance is."""
    new, old = watch.settings.version, watch.good.version
    if new == old or new not in policy.versions[1:]:
        return False
    order = policy.versions
    return old not in order or order.index(new) > order.index(old)


def _fails(watch: Watch, *, heavier: bool) -> bool:
    """Whether requests fail that did not.

    What a queue's timeout refuses is no fault of instances that were added, nor of anything at a
    load that rose. Instances are not at fault for those who gave up in a full queue, either: ones
    that fail by themselves keep no queue for long.
    """
    before, after = watch.before, watch.after
    if watch.grows:
        before = before.without(before.rejected + before.crowded)
        after = after.without(after.rejected + after.crowded)
    elif heavier:
        before, after = before.without(before.rejected), after.without(after.rejected)
    if after.failed < LEAST_FAILED:
        return False
    return after.failed_fraction > before.failed_fraction + MORE_FAILED


def _heavier(watch: Watch) -> bool:
    """Whether the load is higher than before the change, by more than the chance of few arrivals.

    Two standard deviations of the difference of two Poisson rates.
    """
    before, after = watch.before, watch.after
    if before.span_s <= 0 or after.span_s <= 0:
        return False
    spread_rps = math.sqrt(before.rate_rps / before.span_s + after.rate_rps / after.span_s)
    return after.rate_rps > (1.0 + SIMILAR) * before.rate_rps + 2.0 * spread_rps


def _carries_less(watch: Watch) -> bool:
    """Whether more instances answer fewer requests, saturated before and after."""
    before, after = watch.before.queued_rps, watch.after.queued_rps
    return before is not None and after is not None and after < FASTER * before


def _slower(watch: Watch, policy: Policy) -> bool:
    """Whether requests take longer than before and than was predicted, by more than noise.

    Where the count alone was changed, without a prediction, or without a time to compare with, the
    SLO itself must be missed.
    """
    before, after = watch.before, watch.after
    budget = 1.0 - policy.slo_target_fraction
    if not watch.reload:
        budget *= CLEARLY_MISSED
    misses = after.missed_fraction > max(budget, 2.0 * before.missed_fraction)
    if after.mean_s is None:  # they came and nobody was answered
        return misses
    known = [watch.predicted_s] if watch.predicted_s is not None else []
    if before.mean_s is not None:
        known.append(before.mean_s)
        if after.mean_s <= SLOWER_THAN_BEFORE * before.mean_s:
            return False
    if watch.predicted_s is not None and after.mean_s <= SLOWER_THAN_PREDICTED * watch.predicted_s:
        return False
    if known and after.mean_s - max(known) <= MATTERS_OF_SLO * policy.slo_s:
        return False
    return misses or (watch.reload and len(known) == 2)


def _better(watch: Watch) -> Verdict:
    """Better where requests are clearly faster, or a full queue is answered faster."""
    before, after = watch.before, watch.after
    if before.mean_s and after.mean_s and after.mean_s < FASTER * before.mean_s:
        return Verdict.BETTER
    if before.missed_fraction > 2.0 * after.missed_fraction and before.missed >= 1:
        return Verdict.BETTER
    if before.queued_rps and after.queued_rps and FASTER * after.queued_rps > before.queued_rps:
        return Verdict.BETTER
    return Verdict.NEUTRAL
