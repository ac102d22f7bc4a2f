"""Whether a change made things better or worse, by what was seen before it and after it.

Theory of operation. After a change has settled it is watched for a number of requests or seconds.
It is worse when requests fail that did not; when a full queue is answered at a lower rate than
before, also at a higher load, and the SLO is missed; when the error budget begins to burn; or when
requests take longer than before and longer than was predicted, at a load that is not higher.
Request times count for nothing where a backlog explains them: more instances while the queue of an
overload drains, and any change that found the queue full and has it full. Its rate counts there.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace

from control.core.judgement.period import Period
from control.core.load.windows import Interval
from control.core.types import Policy, Settings

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
MISSES_ANYWAY = 0.5
"""Above this share, twice as many can not miss the SLO: slower is worse then where most do."""
DRAIN_WATCHES = 3.0
"""As many times the watch time is waited for a queue that drains to its end."""
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
    before: Period = field(default_factory=Period)
    after: Period = field(default_factory=Period)
    predicted_s: float | None = None
    burning: bool = False

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


def judge(watch: Watch, policy: Policy, *, at_s: float, burning: bool) -> Verdict | None:
    """What the change turned out to be; None while that is open.

    Args:
        watch: the change with what was seen since.
        policy: the SLO, and how long to watch.
        at_s: of this look.
        burning: whether the error budget burns now.
    """
    before, after = watch.before, watch.after
    heavier = _heavier(watch)
    if _fails(watch, heavier=heavier) or _collapsed(watch):
        return Verdict.WORSE
    adds = watch.grows or _is_cheaper(watch, policy)
    if burning and not (watch.burning or heavier or adds or before.saturated):
        # What a reload itself made slow is over: the new settings must burn by themselves.
        limit = policy.burn_limit * (1.0 - policy.slo_target_fraction)
        if after.came >= LEAST_REQUESTS and after.missed_fraction > limit:
            return Verdict.WORSE
    settled_s = watch.since_s + policy.settle_s
    if at_s < settled_s + policy.stable_window_s:  # a queue's mean over less is mostly chance
        return None
    few = after.came < policy.watch_requests
    # What waited outside of a server that was busy loading comes at once, and is no higher load.
    if (few or heavier) and at_s < settled_s + policy.watch_s:
        return None
    if max(after.came, after.queued_completed) < LEAST_REQUESTS:
        return Verdict.NEUTRAL
    if _carries_less(watch, policy, adds=adds):
        return Verdict.WORSE
    if heavier or adds or (before.saturated and after.saturated):
        return _better(watch)
    if few and after.drained and at_s < settled_s + DRAIN_WATCHES * policy.watch_s:
        return None  # only the rate could be compared until now
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
    elif heavier or watch.settings.refuse_after_s is not None:  # it is meant to refuse
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


def _carries_less(watch: Watch, policy: Policy, *, adds: bool) -> bool:
    """Whether a full queue is answered at a lower rate than before, and the SLO is missed.

    By more than chance: two standard deviations of the difference of two Poisson rates, or the
    round of batches that may have ended just outside of either time. Before another batching the
    queue need not have been full: it answered as many as came. What adds capacity is compared with
    a full queue alone: it is called for where answers have just become slow, and the time before
    still knows the fast ones.
    """
    before, after = watch.before, watch.after
    before_rps = before.queued_rps if adds else before.queued_rps or before.answered_rps
    if not before_rps or after.queued_rps is None:
        return False
    if after.came >= LEAST_REQUESTS and after.missed_fraction <= 1.0 - policy.slo_target_fraction:
        return False
    spread_rps = math.sqrt(before_rps / before.span_s + after.queued_rps / after.queued_s)
    rounds_rps = watch.good.full_round / before.span_s + watch.settings.full_round / after.queued_s
    return after.queued_rps < FASTER * before_rps - max(2.0 * spread_rps, rounds_rps)


def _slower(watch: Watch, policy: Policy) -> bool:
    """Whether requests take longer than before and than was predicted, by more than noise.

    Where the count alone was changed, without a prediction, or without a time to compare with, the
    SLO itself must be missed.
    """
    before, after = watch.before, watch.after
    budget = 1.0 - policy.slo_target_fraction
    if not watch.reload:
        budget *= CLEARLY_MISSED
    usual = min(2.0 * before.missed_fraction, MISSES_ANYWAY)
    misses = after.missed_fraction > max(budget, usual)
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
