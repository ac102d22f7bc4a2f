"""Learning ℓ(b) from what was executed."""

from __future__ import annotations

import pytest

from control.core.service_time import Learnt, ServiceTime, fit, relative_time
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE


def _executed(**batches: int) -> ModelStatistics:
    """``b4=10``: ten batches of 4 that took the true time."""
    stats = {
        int(name[1:]): BatchStat(count=n, busy_s=n * TRUE.of(int(name[1:])))
        for name, n in batches.items()
    }
    return ModelStatistics(batches=stats)


def test_fit_finds_the_line_behind_enough_evidence() -> None:
    """α and β come out within 5% when several sizes were seen often."""
    learnt = Learnt().absorb(_executed(b1=200, b4=200, b16=200), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=4)
    assert curve is not None
    assert curve.alpha_s == pytest.approx(TRUE.alpha_s, rel=0.05)
    assert curve.beta_s == pytest.approx(TRUE.beta_s, rel=0.1)


def test_fit_of_single_requests_uses_the_prior() -> None:
    """Only b = 1 seen: half of ℓ(1) is taken as fixed, and ℓ(1) itself is kept."""
    curve = fit({1: (500.0, 500 * 0.005)})
    assert curve is not None
    assert curve.of(1) == pytest.approx(0.005, rel=0.02)
    assert curve.alpha_s == pytest.approx(0.0025, rel=0.02)


def test_fit_never_goes_negative() -> None:
    """Falling or superlinear times give α ≥ 0 and β ≥ 0."""
    falling = fit({1: (1000.0, 10.0), 8: (1000.0, 1.0)})
    steep = fit({1: (1000.0, 1.0), 8: (1000.0, 100.0)})
    assert falling is not None
    assert steep is not None
    assert falling.alpha_s == 0.0
    assert steep.beta_s == 0.0


def test_fit_without_evidence_is_none() -> None:
    """Nothing seen, nothing claimed."""
    assert fit({}) is None
    assert Learnt().at(1, threads=1, cores=1) is None


def test_learnt_forgets() -> None:
    """After ten half-lives the old speed no longer counts."""
    slow = ModelStatistics(batches={4: BatchStat(count=100, busy_s=10.0)})
    learnt = Learnt().absorb(slow, instances=1, threads=1, span_s=1)
    learnt = learnt.absorb(_executed(b4=100), instances=1, threads=1, span_s=300)
    curve = learnt.at(1, threads=1, cores=1)
    assert curve is not None
    assert curve.of(4) == pytest.approx(TRUE.of(4), rel=0.1)


def test_learnt_scales_to_a_count_it_has_not_seen() -> None:
    """Instances on free cores are as fast; on taken cores they add nothing."""
    learnt = Learnt().absorb(_executed(b1=50, b8=50), instances=1, threads=2, span_s=1)
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
    learnt = Learnt().absorb(_executed(b8=50), instances=1, threads=2, span_s=1)
    learnt = learnt.absorb(_executed(b8=50), instances=3, threads=1, span_s=1)
    seen = learnt.at(1, threads=1, cores=4)
    assert seen is not None
    assert seen.of(8) == pytest.approx(TRUE.of(8), rel=0.1)


def test_relative_time_is_one_for_one_thread_on_free_cores() -> None:
    """And threads beyond the cores make everything slower."""
    assert relative_time(2, threads=1, cores=4) == 1.0
    assert relative_time(1, threads=2, cores=4) < 1.0
    assert relative_time(8, threads=1, cores=4) == 2.0


def test_service_time_scales() -> None:
    """Both terms slow down alike."""
    assert ServiceTime(alpha_s=0.001, beta_s=0.002).scaled(2).of(3) == pytest.approx(0.010)
