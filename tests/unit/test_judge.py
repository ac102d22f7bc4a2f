"""Whether a change was for the worse, and what is undone and blocked when it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control.core.judgement.judge import Verdict, Watch, judge
from control.core.judgement.period import Period
from control.core.judgement.safety import Safety
from control.core.load.windows import Interval, interval
from control.core.types import Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.intervals import timed
from tests.unit.story import a_policy, settings

POLICY = a_policy(slo_s=0.1)
GOOD = settings(2, batch=8)
BIG = settings(2, batch=32)
T0 = 1000.0


def look(
    end_s: float,
    batch_s: float,
    *,
    span_s: float = 1.0,
    rate: float = 100.0,
    failed: float = 0.0,
    size: int = 8,
    instances: int = 2,
    cpu: float | None = None,
) -> Interval:
    """A steady load in batches of this size; they take so long, and so do its requests."""
    count = round(rate * span_s / size)
    new = timed(
        end_s,
        span_s=span_s,
        arrivals=rate * span_s + failed,
        completed=rate * span_s,
        failed=failed,
        compute_s=batch_s,
    )
    stat = BatchStat(count=count, busy_s=count * batch_s)
    batches = {size: stat} if count else {}
    seen = ModelStatistics(batches=batches)
    return replace(new, statistics=seen, instances=instances, cpu_fraction=cpu)


def period(
    batch_s: float, *, span_s: float = 10.0, failed: float = 0.0, scatter: float = 0.0, **seen: Any
) -> Period:
    """Ten such looks; every other one is slower by ``scatter``, the others are as much faster."""
    total = Period()
    for n in range(10):
        slow = 1.0 + (scatter if n % 2 else -scatter)
        new = look(n + 1.0, batch_s * slow, span_s=span_s / 10, failed=failed / 10, **seen)
        total = total.plus(new, slo_s=POLICY.slo_s, full_round=16.0)
    return total


def watch(after: Period, *, before: Period | None = None, **changes: object) -> Watch:
    """A watched change from GOOD to BIG, 20 ms before it."""
    base = Watch(since_s=T0, settings=BIG, good=GOOD, before=before or period(0.02), after=after)
    return replace(base, **changes)


def verdict(seen: Watch, *, later_s: float = 60.0) -> Verdict | None:
    """Of the watch, so long after the change."""
    return judge(seen, POLICY, at_s=T0 + later_s)


def test_it_is_open_until_enough_was_seen() -> None:
    """499 requests are not enough, 500 are, and so is the time."""
    few, enough = period(0.02, span_s=4.99), period(0.02, span_s=5.0)
    assert verdict(watch(few), later_s=10.0) is None
    assert verdict(watch(enough), later_s=8.0) is None  # not even one stable window
    assert verdict(watch(enough), later_s=10.0) is Verdict.NEUTRAL
    assert verdict(watch(few), later_s=33.0) is Verdict.NEUTRAL


def test_new_failures_are_worse_at_once() -> None:
    """Five of them, before the time is over; those that were there before are not its doing."""
    assert verdict(watch(period(0.02, failed=20.0)), later_s=4.0) is Verdict.WORSE
    assert verdict(watch(period(0.02, failed=4.0)), later_s=4.0) is not Verdict.WORSE
    ill = watch(period(0.02, failed=20.0), before=period(0.02, failed=20.0))
    assert verdict(ill) is Verdict.NEUTRAL


def test_failures_count_while_it_settles_and_while_a_queue_drains() -> None:
    """The change itself may be what makes requests fail."""
    seen = watch(Period())
    seen = seen.with_interval(timed(T0 + 1.0, failed=20.0, completed=80.0), POLICY)
    draining = timed(T0 + 20.0, failed=20.0, completed=600.0, pending=500.0)
    seen = seen.with_interval(draining, POLICY)
    assert (seen.after.failed, seen.after.ended) == (40.0, 720.0)
    assert seen.after.came == 0.0
    assert verdict(seen, later_s=20.0) is Verdict.WORSE


def _overload(rise: float, *, pending: float, rejected: float = 0.0) -> Period:
    """Ten seconds of which each sees 40 failures, beside so many that wait."""
    seen = Period()
    for n in range(10):
        new = timed(T0 + n, arrivals=140.0 + rise, completed=100.0, failed=40.0, pending=pending)
        seen = seen.plus(replace(new, rejected=rejected), slo_s=0.1, full_round=24.0)
    return seen


def test_more_instances_are_not_blamed_for_the_failures_of_an_overload() -> None:
    """Timeouts of the queue, and clients that give up in it; without a queue it is the change."""
    more = settings(3, batch=8)
    for rise in (0.0, 50.0):
        timeouts = _overload(rise, pending=5.0, rejected=40.0)
        assert verdict(watch(timeouts, settings=more)) is not Verdict.WORSE
        gave_up = _overload(rise, pending=500.0)
        assert verdict(watch(gave_up, settings=more)) is not Verdict.WORSE
        broken = _overload(rise, pending=5.0)
        assert verdict(watch(broken, settings=more)) is Verdict.WORSE
    settling = watch(Period(), settings=more).with_interval(
        timed(T0 + 1.0, failed=40.0, pending=500.0), POLICY
    )
    assert verdict(settling, later_s=1.0) is None


def test_timeouts_of_the_queue_count_against_a_batching_unless_the_load_rose() -> None:
    """Too small a batch makes a queue; so does a rise of the load."""
    risen = watch(_overload(50.0, pending=5.0, rejected=40.0))
    assert verdict(replace(risen, before=period(0.02, rate=140.0))) is Verdict.NEUTRAL
    same = watch(_overload(0.0, pending=5.0, rejected=40.0), before=period(0.02, rate=140.0))
    assert verdict(same) is Verdict.WORSE
    fails = watch(_overload(50.0, pending=5.0), before=period(0.02, rate=140.0))
    assert verdict(fails) is Verdict.WORSE


def test_what_waited_outside_of_a_busy_server_is_no_rise_of_the_load() -> None:
    """It comes at once, when the server has loaded; the load is compared when it has passed."""
    at_once = watch(period(0.15, rate=160.0, span_s=4.0))
    assert verdict(at_once, later_s=10.0) is None
    assert verdict(watch(period(0.15, rate=110.0, span_s=25.0)), later_s=28.0) is Verdict.WORSE
    assert verdict(at_once, later_s=33.0) is Verdict.WORSE


def test_more_instances_are_worse_only_when_they_carry_less() -> None:
    """A queue that drains after a scale up is no fault of it; instances on full cores are."""
    more = settings(3, batch=8)

    def saturated(rps: float) -> Period:
        full = timed(10.0, span_s=10.0, completed=rps * 10, arrivals=1500.0, pending=2000.0)
        return Period().plus(full, slo_s=0.1, full_round=24.0)

    down = watch(saturated(80.0), before=saturated(100.0), settings=more)
    assert verdict(down) is Verdict.WORSE
    up = watch(saturated(120.0), before=saturated(100.0), settings=more)
    assert verdict(up) is not Verdict.WORSE


MORE = settings(3, batch=8)


@pytest.mark.parametrize(
    "after",
    [period(0.12, instances=3), period(0.12, instances=3, rate=300.0)],
    ids=["as before", "at a higher load"],
)
def test_a_count_that_makes_batches_so_slow_that_it_carries_less_is_worse(after: Period) -> None:
    """1.5 times the instances, each batch takes six times as long, and all miss the SLO."""
    assert verdict(watch(after, settings=MORE)) is Verdict.WORSE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (period(0.02), period(0.09, instances=3)),
        (period(0.10), period(0.15, instances=3)),
        (period(0.02, size=4), period(0.12, instances=3)),
        (period(0.02), period(0.12, instances=3, rate=8.0)),
        (period(0.02, rate=8.0), period(0.12, instances=3)),
        (period(0.08, scatter=0.6), period(0.16, instances=3, scatter=0.6)),
        (period(0.02, cpu=0.4), period(0.12, instances=3, cpu=0.6)),
        (period(0.02, cpu=0.97), period(0.12, instances=3, cpu=0.97)),
        (period(0.02), period(0.12, instances=3, cpu=0.6)),
        (period(0.02, cpu=0.4), period(0.12, instances=3)),
        (replace(period(0.02), instance_s=0.0), period(0.12, instances=3)),
    ],
    ids=[
        "the SLO is met",
        "as much is carried",
        "other batches",
        "few batches after it",
        "few batches before it",
        "chance",
        "a busier host",
        "a host that is full",
        "how busy the host was is not known",
        "how busy the host is is not known",
        "of an older journal",
    ],
)
def test_slow_batches_alone_are_not_worse(before: Period, after: Period) -> None:
    """Each case lacks one thing of the one that is worse."""
    assert verdict(watch(after, before=before, settings=MORE)) is Verdict.NEUTRAL


def test_slow_batches_are_worse_on_a_host_that_is_no_busier() -> None:
    """By less than a tenth of its cores; and where the means differ by more than chance."""
    before, after = period(0.02, cpu=0.4), period(0.12, instances=3, cpu=0.49)
    assert verdict(watch(after, before=before, settings=MORE)) is Verdict.WORSE
    before, after = period(0.08, scatter=0.1), period(0.16, instances=3, scatter=0.1)
    assert verdict(watch(after, before=before, settings=MORE)) is Verdict.WORSE


def test_fewer_instances_with_more_threads_carry_as_much() -> None:
    """Two of one thread, then one of two that takes half as long; then one that does not."""
    one = replace(settings(1, batch=8), threads=2)
    before, missed = period(0.3), period(0.15, instances=1)
    assert verdict(watch(missed, before=before, settings=one)) is Verdict.NEUTRAL
    slow = period(0.2, instances=1)
    assert verdict(watch(slow, before=before, settings=one)) is Verdict.WORSE


@pytest.mark.parametrize(
    ("answered_rps", "expected"),
    [(450.0, Verdict.NEUTRAL), (250.0, Verdict.NEUTRAL), (200.0, Verdict.WORSE)],
)
def test_a_batching_that_found_a_full_queue_is_judged_by_what_it_answers(
    answered_rps: float, expected: Verdict
) -> None:
    """250/s before, for 5 s; after it the backlog makes requests take longer, whatever it does."""
    before = replace(period(1.5, span_s=6.0), queued_s=5.0, queued_completed=1250.0, sizes={})
    after = replace(period(2.7, span_s=10.0), queued_s=10.0, queued_completed=10 * answered_rps)
    assert verdict(watch(after, before=before)) is expected


def test_nobody_asked_is_neutral() -> None:
    """19 requests prove nothing."""
    assert verdict(watch(period(0.5, rate=1.9))) is Verdict.NEUTRAL


def test_a_draining_queue_does_not_count_as_latency() -> None:
    """1000 waited and 500 still do: the overload before, not these settings."""
    new = timed(completed=600.0, arrivals=100.0, pending=500.0, wait_s=5.0)
    seen = Period().plus(new, slo_s=0.1, full_round=16.0)
    assert (seen.came, seen.missed) == (0.0, 0.0)
    assert (seen.completed, seen.queued_completed) == (600.0, 600.0)


class Told:
    """A safety that is told of looks of 1 s and changes."""

    def __init__(self, applied: Settings = GOOD) -> None:
        self.safety, self.applied, self.at_s = Safety(), applied, T0
        self.policy = replace(POLICY, watch_s=10.0, settle_s=2.0, stable_window_s=3.0)

    def looks(self, count: int, batch_s: float, *, applied: Settings | None = None) -> Told:
        """Looks of 100 requests, in batches that take so long."""
        self.applied = applied or self.applied
        for _ in range(count):
            self.at_s += 1.0
            self.safety = self.safety.absorb(
                look(self.at_s, batch_s, instances=self.applied.instances),
                self.applied,
                self.policy,
                burning=False,
                at_s=self.at_s,
            )
        return self

    def changes(self, wanted: Settings, *, takes: int = 1, ok: bool = True) -> Told:
        """A change that begins and ends."""
        was, self.safety = self.applied, self.safety.begun()
        self.looks(takes, 0.02)
        self.safety = self.safety.ended(wanted, was, ok=ok, at_s=self.at_s)
        self.applied = wanted if ok else was
        return self

    def loses(self, good: Settings) -> Told:
        """The server did not survive what is in force; that is good again."""
        self.safety = self.safety.ended(good, self.applied, ok=True, at_s=self.at_s, undo=True)
        self.applied = good
        return self


def test_a_worse_change_is_undone_and_blocked() -> None:
    """500 requests after it has settled; and its batching is blocked at any count, for a while."""
    told = Told().looks(10, 0.02).changes(BIG).looks(6, 0.15)
    assert told.safety.rollback_of(BIG) is None
    told.looks(1, 0.15)
    assert told.safety.verdict is Verdict.WORSE
    assert told.safety.rollback_of(BIG) == GOOD
    assert told.safety.forbids(replace(BIG, instances=4), at_s=told.at_s)
    assert not told.safety.forbids(GOOD, at_s=told.at_s)
    assert not told.safety.forbids(BIG, at_s=told.at_s + 601)
    told.changes(GOOD)
    assert told.safety.rollback_of(GOOD) is None
    assert told.safety.watch is None
    assert told.looks(30, 0.15).safety.rollback_of(GOOD) is None


def test_a_good_change_is_what_the_next_one_goes_back_to() -> None:
    """Neutral is good enough."""
    told = Told().looks(10, 0.02).changes(BIG).looks(8, 0.02)
    assert told.safety.verdict is Verdict.NEUTRAL
    assert told.safety.last_good == BIG
    bad = settings(2, batch=1)
    told.changes(bad).looks(8, 0.15)
    assert told.safety.rollback_of(bad) == BIG


def test_instances_added_meanwhile_stay_and_do_not_end_the_watch() -> None:
    """A bad batching must not escape because instances were added to carry it."""
    told = Told().looks(10, 0.02).changes(BIG).looks(3, 0.15)
    more = replace(BIG, instances=4)
    told.changes(more).looks(8, 0.15)
    assert told.safety.rollback_of(more) == replace(GOOD, instances=4)


def test_a_worse_count_goes_back_to_the_one_before() -> None:
    """Exactly that count is blocked."""
    more = replace(GOOD, instances=3)
    told = Told().looks(10, 0.02).changes(more).looks(10, 0.15)
    assert told.safety.rollback_of(more) == GOOD
    assert told.safety.forbids(more, at_s=told.at_s)
    assert not told.safety.forbids(replace(GOOD, instances=1), at_s=told.at_s)


def test_fewer_instances_that_carry_less_were_meant() -> None:
    """Where that is too little, more are had: that is no reason to block the count."""
    fewer = replace(GOOD, instances=1)
    told = Told().looks(10, 0.02).changes(fewer).looks(10, 0.15)
    assert told.safety.rollback_of(fewer) is None
    assert not told.safety.forbids(fewer, at_s=told.at_s)


def test_what_a_person_changes_is_not_undone() -> None:
    """Neither while it is watched nor when a rollback was due."""
    theirs = settings(3, batch=16)
    told = Told().looks(10, 0.02).changes(BIG).looks(3, 0.15).looks(10, 0.15, applied=theirs)
    assert told.safety.rollback_of(theirs) is None
    assert told.safety.last_good == theirs
    due = Told().looks(10, 0.02).changes(BIG).looks(7, 0.15)
    assert due.safety.undo == GOOD
    assert due.looks(1, 0.15, applied=theirs).safety.rollback_of(theirs) is None


@pytest.mark.parametrize("looks", [0, 3, 8], ids=["a new controller", "watched", "neutral"])
def test_what_came_back_is_not_judged_against_what_killed_the_server(looks: int) -> None:
    """However slow it is after the restart: it is the last good, and nothing is undone."""
    told = Told(BIG)
    if looks:
        told = Told().looks(10, 0.02).changes(BIG).looks(looks, 0.02)
    told.loses(GOOD)
    assert told.safety.watch is None
    assert told.safety.last_good == GOOD
    assert told.looks(30, 0.9).safety.rollback_of(GOOD) is None


def test_instances_that_are_taken_back_do_not_end_the_watch_of_a_batching() -> None:
    """The batching was not the fault, but may be slow all the same."""
    told = Told().looks(10, 0.02).changes(BIG).looks(3, 0.15)
    told.changes(replace(BIG, instances=4)).loses(BIG).looks(8, 0.15)
    assert told.safety.rollback_of(BIG) == GOOD


def test_a_change_that_failed_is_not_watched() -> None:
    """The actuator has brought the old settings back."""
    told = Told().looks(10, 0.02).changes(BIG, ok=False).looks(20, 0.15)
    assert told.safety.rollback_of(GOOD) is None
    assert told.safety.verdict is None


def test_a_gap_neither_judges_nor_forgets() -> None:
    """Looks without an interval, or without a config, leave the watch open."""
    told = Told().looks(10, 0.02).changes(BIG)
    before = told.safety.watch
    for applied in (None, BIG):
        told.safety = told.safety.absorb(
            None, applied, told.policy, burning=False, at_s=told.at_s + 100
        )
        assert told.safety.watch == before


def test_an_interval_tells_what_the_queue_refused() -> None:
    """Of the failures between two looks."""
    first = Observation(
        at_s=T0, tick_id="a", counters=ModelCounters(), statistics=None, applied=GOOD
    )
    counters = ModelCounters(success=50.0, failure=9.0, rejected=7.0)
    new = interval(first, replace(first, at_s=T0 + 1.0, counters=counters), stale_s=10.0)
    assert new is not None
    assert (new.failed, new.rejected) == (9.0, 7.0)
