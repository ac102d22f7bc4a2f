"""Damage that latencies do not show: refused batches, and answers without any computing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.judgement.judge import Verdict, fails
from control.core.judgement.period import Batches, Period
from control.core.judgement.safety import Safety
from control.core.types import Settings
from tests.unit.test_judge import BIG, GOOD, POLICY, T0, period, verdict, watch


def _computed(batch_s: float, *, size: int = 8, batches: int = 100) -> Period:
    """A steady period in which batches of this size took so long."""
    seen = Batches(
        count=float(batches),
        busy_s=batch_s * batches,
        squares=batch_s**2 * batches,
        looks=10.0,
    )
    return replace(period(0.02), sizes={size: seen})


@pytest.mark.parametrize(
    ("after", "worse"),
    [
        (_computed(0.0005, size=8), True),
        (_computed(0.0005, size=32), True),
        (_computed(0.002, size=8), False),
        (_computed(0.0005, size=2), False),
        (_computed(0.0005, size=8, batches=10), False),
    ],
)
def test_answers_that_take_next_to_nothing_are_worse(after: Period, worse: bool) -> None:
    """10 ms a batch before; smaller batches, and few of them, prove nothing."""
    seen = watch(after, before=_computed(0.01))
    assert (verdict(seen) is Verdict.WORSE) is worse


@pytest.mark.parametrize(("version", "worse"), [(1, False), (2, True)], ids=["another", "the same"])
@pytest.mark.parametrize(
    "after", [_computed(0.0005), period(0.15)], ids=["much faster", "much slower"]
)
def test_what_another_version_takes_is_no_measure(after: Period, version: int, worse: bool) -> None:
    """It is another model."""
    old, new = replace(GOOD, version=2), replace(BIG, version=version)
    safety = Safety(last_good=old, before=_computed(0.01)).ended(new, old, ok=True, at_s=T0)
    assert safety.watch is not None
    assert (verdict(replace(safety.watch, after=after)) is Verdict.WORSE) is worse


def _after(settings: Settings, after: Period) -> Safety:
    """The memory after these settings were judged."""
    safety = Safety(watch=watch(after, settings=settings), last_good=GOOD)
    return safety._judged(POLICY, at_s=T0 + 60.0)


def test_a_raised_batch_that_fails_becomes_a_limit_of_the_model() -> None:
    """Not one setting that is tried again with another delay, but so many rows."""
    assert _after(BIG, period(0.02, failed=50.0)).refused_rows == BIG.max_batch_size


def test_a_raised_batch_that_is_only_slow_is_no_limit() -> None:
    """It works, and may pay at another load."""
    slow = _after(BIG, period(0.15))
    assert slow.undo == GOOD
    assert slow.refused_rows is None


def test_the_smallest_refused_batch_is_kept() -> None:
    """32 rows, then 16: nothing of 16 or more is tried."""
    assert Safety().refused(32).refused(16).refused(None).refused(64).refused_rows == 16


@pytest.mark.parametrize(
    ("refuses", "crowded", "worse"), [(True, 5.0, False), (True, 0.0, True), (False, 5.0, True)]
)
def test_a_limit_of_the_waiting_is_not_blamed_for_a_full_queue(
    refuses: bool, crowded: float, worse: bool
) -> None:
    """Of 347 that ended 68 were refused, and 5 failed: beside a full queue they were refused, too,
    and are counted so a moment later. As a real Triton counted them."""
    after = Period(failed=73.0, rejected=68.0 if refuses else 0.0, crowded=crowded, ended=347.0)
    wanted = replace(GOOD, refuse_after_s=0.2) if refuses else BIG
    assert fails(watch(after, before=Period(ended=214.0), settings=wanted)) is worse
