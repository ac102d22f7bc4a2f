"""Whether a change made things worse, by what was seen before it and after it.

Theory of operation. After a change has settled it is watched for a number of requests or seconds.
It is worse when requests fail that did not; when the model does not compute any more; and when it
carries less and the SLO is missed: by the rate at which a full queue is answered, or by the time
that batches of equal size take on a machine that is no busier, nor full. What is unclear is neither
praised nor blamed: the change stays. How long requests take does not count, as a neighbour, longer
inputs or the backlog that the change found make them slow whatever is in force (ADR 0017).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace

from control.core.judgement.period import Period
from control.core.load.windows import Interval
from control.core.policy import Policy
from control.core.types import Settings

SIMILAR = 0.1
"""Loads that differ by less than this share are compared, and hosts by this share of their cores.
"""
LESS = 0.9
"""Of what was carried before: less is worse."""
LEAST_REQUESTS = 20.0
LEAST_FAILED = 5.0
MORE_FAILED = 0.01
COLLAPSED = 0.1
"""Of the time that a batch took before: a model that answers so fast does not compute any more.
Instances that no longer share the cores with others become faster by less."""
LEAST_BATCHES = 20.0
"""Of a size, before and after: the mean of fewer is mostly chance."""
SIZE_KEPT = 0.9
"""Of the mean batch size before: batches that are no smaller."""


class Verdict(enum.Enum):
    """What a change turned out to be."""

    NEUTRAL = "neutral"
    WORSE = "worse"
    BETTER = NEUTRAL
    """In older journals; nothing is praised any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A change that is being judged.

    Attributes:
        since_s: when it ended.
        settings: that it brought into force.
        good: what to go back to when it is worse.
        before: the time before it began.
        after: the time since it has settled.
    """

    since_s: float
    settings: Settings
    good: Settings
    before: Period = field(default_factory=Period)
    after: Period = field(default_factory=Period)

    @property
    def grows(self) -> bool:
        """Whether it only added instances."""
        return self.settings.instances > self.good.instances and not self.reload

    @property
    def reload(self) -> bool:
        """Whether it changed more than the instance count."""
        return not self.settings.same_but_count(self.good)

    @property
    def full_round(self) -> int:
        """How many requests all instances take at once, by the smaller of the two settings.

        As many filled the queue before the change, or fill it now: a larger batch does not make
        the backlog that it found any smaller.
        """
        return min(self.settings.full_round, self.good.full_round)

    @property
    def raised_batch(self) -> bool:
        """Whether it raised the batch limit."""
        return self.settings.max_batch_size > self.good.max_batch_size

    def with_interval(self, new: Interval, policy: Policy) -> Watch:
        """The watch after one more interval; until all has settled only failures count."""
        if new.start_s < self.since_s + policy.settle_s or new.old_copy_works:
            return replace(self, after=self.after.plus_ended(new, full_round=self.full_round))
        after = self.after.plus(new, slo_s=policy.slo_s, full_round=self.full_round)
        return replace(self, after=after)


def judge(watch: Watch, policy: Policy, *, at_s: float) -> Verdict | None:
    """What the change turned out to be; None while that is open.

    Args:
        watch: the change with what was seen since.
        policy: the SLO, and how long to watch.
        at_s: of this look.
    """
    after = watch.after
    heavier = _heavier(watch)
    if _fails(watch, heavier=heavier) or _collapsed(watch):
        return Verdict.WORSE
    settled_s = watch.since_s + policy.settle_s
    if at_s < settled_s + policy.stable_window_s:  # a queue's mean over less is mostly chance
        return None
    # What waited outside of a server that was busy loading comes at once, and is no higher load.
    few = after.came < policy.watch_requests
    if (few or heavier) and at_s < settled_s + policy.watch_s:
        return None
    if max(after.came, after.queued_completed) < LEAST_REQUESTS:
        return Verdict.NEUTRAL
    less = _answers_less(watch, policy) or _batches_carry_less(watch, policy)
    return Verdict.WORSE if less else Verdict.NEUTRAL


def fails(watch: Watch) -> bool:
    """Whether requests fail since the change that did not fail before it."""
    return _fails(watch, heavier=_heavier(watch))


def _collapsed(watch: Watch) -> bool:
    """Whether batches that are no smaller take next to no time any more.

    A model that answers with errors of its own is counted as successful by Triton: that it does not
    compute is all that can be seen of it here.
    """
    before, after = watch.before, watch.after
    if min(before.batches, after.batches) < LEAST_BATCHES:
        return False
    if after.batch_rows < SIZE_KEPT * before.batch_rows:
        return False
    return after.batch_s < COLLAPSED * before.batch_s


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
    load that rose. Instances and the timeout itself are not at fault for others who fail beside a
    full queue, either (refused ones are counted so for a moment): a model that fails by itself
    keeps no queue for long.
    """
    before, after = watch.before, watch.after
    if watch.grows or watch.settings.refuse_after_s is not None:  # it is meant to refuse
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


def _answers_less(watch: Watch, policy: Policy) -> bool:
    """Whether a full queue is answered at a lower rate than before, and the SLO is missed.

    By more than chance: two standard deviations of the difference of two Poisson rates, or the
    round of batches that may have ended just outside of either time. Before another batching the
    queue need not have been full: it answered as many as came, and now a busier host may be what
    holds it up. What adds capacity is compared with a full queue alone: it is called for where
    answers have just become slow, and the time before still knows the fast ones.
    """
    before, after = watch.before, watch.after
    if watch.settings.refuse_after_s is not None and watch.good.refuse_after_s is None:
        return False  # what is refused now was answered late before
    before_rps = before.queued_rps
    if before_rps is None and not (
        watch.grows or _is_cheaper(watch, policy) or _busier(before, after)
    ):
        before_rps = before.answered_rps
    if not before_rps or after.queued_rps is None:
        return False
    if after.came >= LEAST_REQUESTS and not _misses(after, policy):
        return False
    spread_rps = math.sqrt(before_rps / before.span_s + after.queued_rps / after.queued_s)
    rounds_rps = watch.good.full_round / before.span_s + watch.settings.full_round / after.queued_s
    return after.queued_rps < LESS * before_rps - max(2.0 * spread_rps, rounds_rps)


def _batches_carry_less(watch: Watch, policy: Policy) -> bool:
    """Whether less is carried by what batches of equal size take, and the SLO is missed.

    Capacity after / before = instances after / before / how many times as long a batch takes. By
    more than chance, two standard errors. On a machine that is busier now nobody knows whose doing
    it is. Fewer instances carry less: that was meant, and where it is too little, more are had.

    Example:
        1 instance, then 3 whose batches of 8 take 4 times as long: 0.75 of what was carried.
    """
    before, after = watch.before, watch.after
    if not watch.reload and watch.settings.instances < watch.good.instances:
        return False
    if not _misses(after, policy) or before.instances <= 0.0:
        return False
    if _busier(before, after) or _full(after):
        return False
    was_s, is_s, was_error_s, is_error_s = 0.0, 0.0, 0.0, 0.0
    for size, now in after.sizes.items():
        then = before.sizes.get(size)
        if then is None or min(then.count, now.count) < LEAST_BATCHES:
            continue
        was_s, is_s = was_s + now.count * then.mean_s, is_s + now.busy_s
        was_error_s += now.count * then.error_s  # slow seconds are slow for all sizes
        is_error_s += now.count * now.error_s
    if was_s <= 0.0 or is_s <= 0.0:
        return False
    carried = after.instances / before.instances * was_s / is_s
    chance = math.hypot(was_error_s / was_s, is_error_s / is_s)
    return carried * (1.0 + 2.0 * chance) < LESS


def _misses(after: Period, policy: Policy) -> bool:
    """Whether more than the budgeted share misses the SLO."""
    return after.missed_fraction > 1.0 - policy.slo_target_fraction


def _busier(before: Period, after: Period) -> bool:
    """Whether the host is busier than before, or that is not known: of one of both times only."""
    was, now = before.cpu_fraction, after.cpu_fraction
    if was is None or now is None:
        return was is not now
    return now > was + SIMILAR


def _full(period: Period) -> bool:
    """Whether the host was full: it looks the same whatever else is asked of it."""
    return period.cpu_fraction is not None and period.cpu_fraction > 1.0 - SIMILAR
