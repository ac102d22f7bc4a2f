"""What is learnt of ℓ(b) over time: scatter, forgetting, and what one setting tells of another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.service.learnt import Learnt
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.evidence import SLOW, after, executed, noisy
from tests.unit.story import TRUE


@pytest.mark.parametrize("cv", [0.03, 0.3])
def test_learnt_knows_how_much_batches_scatter(cv: float) -> None:
    """The coefficient of variation, from sums alone, within 15%; the sums hide most of it."""
    rng = np.random.default_rng(1)
    curve = after(60, lambda: noisy(rng, range(1, 9), cv=cv)).at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.cv_fraction == pytest.approx(cv, rel=0.15)


@pytest.mark.parametrize("tick_s", [0.2, 1.0])
def test_what_all_batches_of_a_second_share_is_no_scatter(tick_s: float) -> None:
    """Seconds differ by a tenth, single batches by 5 %; five sizes side by side tell them apart."""
    rng = np.random.default_rng(2)
    learnt = Learnt()
    for _ in range(200):
        whole = 1.0 + 0.1 * rng.standard_normal()
        stats = {
            size: BatchStat(
                count=(count := 1 + int(rng.poisson(13 * tick_s))),
                busy_s=whole * TRUE.of(size) * float(np.sum(rng.normal(1.0, 0.05, count))),
            )
            for size in (1, 2, 3, 4, 8)
        }
        learnt = learnt.absorb(
            ModelStatistics(batches=stats), instances=1, threads=1, span_s=tick_s
        )
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.cv_fraction == pytest.approx(0.05, rel=0.15)


def test_learnt_takes_a_drift_for_no_scatter() -> None:
    """A model that becomes 1% slower each second has no scatter to speak of."""
    learnt = Learnt()
    for tick in range(60):
        learnt = learnt.absorb(executed(TRUE, 1.01**tick, b4=20), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.cv_fraction < 0.05


def test_learnt_forgets() -> None:
    """After ten half-lives the old speed no longer counts."""
    slow = ModelStatistics(batches={4: BatchStat(count=100, busy_s=10.0)})
    learnt = Learnt().absorb(slow, instances=1, threads=1, span_s=1)
    learnt = learnt.absorb(executed(b4=100), instances=1, threads=1, span_s=300)
    curve = learnt.at(1, threads=1, cores=1)
    assert curve is not None
    assert curve.of(4) == pytest.approx(TRUE.of(4), rel=0.1)


def test_a_device_that_got_slower_is_slower_for_the_batches_that_do_not_come() -> None:
    """A day of all sizes, then only full ones, 2.5 times as slow: the small ones are, too."""
    day = after(120, lambda: executed(b1=30, b4=30, b8=3))
    slow = after(5, lambda: executed(TRUE, 2.5, b8=30), day)
    known = slow.at(1, threads=1, cores=1)
    assert known is not None
    for size in (1, 4, 8):
        assert known.of(size) == pytest.approx(2.5 * TRUE.of(size), rel=0.1)
    again = after(5, lambda: executed(b8=30), slow).at(1, threads=1, cores=1)
    assert again is not None
    assert again.of(1) == pytest.approx(TRUE.of(1), rel=0.1)


def test_a_size_that_was_learnt_on_the_slower_device_is_not_scaled() -> None:
    """Only single ones by night; the device gets slower as the first full ones come."""
    night = after(120, lambda: executed(b1=30))
    rush = after(10, lambda: executed(TRUE, 2.5, b8=30), night)
    calm = after(5, lambda: executed(TRUE, 2.5, b1=30, b8=5), rush).at(1, threads=1, cores=1)
    assert calm is not None
    assert calm.of(1) == pytest.approx(2.5 * TRUE.of(1), rel=0.1)
    assert calm.of(8) == pytest.approx(2.5 * TRUE.of(8), rel=0.1)


def test_a_neighbour_of_two_seconds_makes_no_other_device() -> None:
    """What was known of the sizes that did not come stays."""
    day = after(120, lambda: executed(b1=30, b4=30))
    busy = after(2, lambda: executed(TRUE, 1.8, b1=30), day)
    known = after(3, lambda: executed(b1=30), busy).at(1, threads=1, cores=1)
    assert known is not None
    assert known.of(4) == pytest.approx(TRUE.of(4), rel=0.05)


def test_learnt_keeps_large_batches_through_a_night_of_single_requests() -> None:
    """Two hours without a batch of 8: its time is still known within 10%, against the prior."""
    learnt = after(30, lambda: executed(SLOW, b1=3, b8=10))
    learnt = after(7200, lambda: executed(SLOW, b1=3), learnt)
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.1)


def test_learnt_is_the_same_after_a_time_without_a_batch() -> None:
    """Silence teaches nothing, and wipes out nothing."""
    learnt = Learnt().absorb(executed(b1=50), instances=1, threads=1, span_s=1)
    assert learnt.absorb(ModelStatistics(), instances=1, threads=1, span_s=1e6) is learnt


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 10**7),
)
def test_learnt_rejects_what_no_batch_can_have(busy_s: float, span_s: float, size: int) -> None:
    """NaN, infinite, negative, zero: the curve stays finite and above 0, and known stays known."""
    known = Learnt().absorb(executed(b1=50, b8=50), instances=1, threads=1, span_s=1)
    odd = ModelStatistics(batches={size: BatchStat(count=3, busy_s=busy_s)})
    learnt = known.absorb(odd, instances=1, threads=1, span_s=span_s)
    curve = learnt.at(2, threads=1, cores=2)
    assert curve is not None
    assert all(0 < seconds < math.inf for seconds in curve.of_each(16))
    if not (math.isfinite(busy_s) and busy_s > 0 and math.isfinite(span_s) and span_s >= 0):
        assert learnt is known


def test_learnt_scales_to_a_count_it_has_not_seen() -> None:
    """Instances on free cores are as fast; on taken cores they add nothing."""
    learnt = Learnt().absorb(executed(b1=50, b8=50), instances=1, threads=2, span_s=1)
    alone, crowded, single = (
        learnt.at(1, threads=2, cores=2),
        learnt.at(2, threads=2, cores=2),
        learnt.at(2, threads=1, cores=2),
    )
    assert alone is not None
    assert crowded is not None
    assert single is not None
    assert crowded.of(8) == pytest.approx(2 * alone.of(8))
    assert alone.of(8) < single.of(8) < 1.5 * alone.of(8)


def test_learnt_prefers_evidence_of_the_same_threads() -> None:
    """What one thread took says more about one thread than what two took."""
    learnt = Learnt().absorb(executed(b8=50), instances=1, threads=2, span_s=1)
    learnt = learnt.absorb(executed(b8=50), instances=3, threads=1, span_s=1)
    seen = learnt.at(1, threads=1, cores=4)
    assert seen is not None
    assert seen.of(8) == pytest.approx(TRUE.of(8), rel=0.1)


def test_learnt_shares_the_curve_between_counts() -> None:
    """Large batches were seen at one instance only, small ones at two: both know ℓ(8)."""
    learnt = after(30, lambda: executed(SLOW, b1=5, b4=5, b8=5))
    learnt = after(30, lambda: executed(SLOW, b1=5), learnt, instances=2)
    curve = learnt.at(2, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.05)
