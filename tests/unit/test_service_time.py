"""Learning ℓ(b) from what was executed."""

from __future__ import annotations

import pytest

from control.core.service_time import Learnt, ServiceTime, fit, slow_down
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
    learnt = Learnt().absorb(_executed(b1=200, b4=200, b16=200), instances=1, span_s=1)
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
    learnt = Learnt().absorb(slow, instances=1, span_s=1)
    learnt = learnt.absorb(_executed(b4=100), instances=1, span_s=300)
    curve = learnt.at(1, threads=1, cores=1)
    assert curve is not None
    assert curve.of(4) == pytest.approx(TRUE.of(4), rel=0.1)


def test_learnt_scales_to_a_count_it_has_not_seen() -> None:
    """Instances on free cores are as fast; on taken cores they are slower."""
    learnt = Learnt().absorb(_executed(b1=50, b8=50), instances=1, span_s=1)
    alone, free, crowded = (
        learnt.at(1, threads=2, cores=2),
        learnt.at(2, threads=1, cores=2),
        learnt.at(2, threads=2, cores=2),
    )
    assert alone is not None
    assert free is not None
    assert crowded is not None
    assert free.of(8) == alone.of(8)
    assert crowded.of(8) == pytest.approx(1.6 * alone.of(8))


def test_slow_down_is_one_while_cores_are_free() -> None:
    """No contention below the number of cores."""
    assert slow_down(2, threads=1, cores=4) == 1.0
    assert slow_down(8, threads=1, cores=4) > 1.0


def test_service_time_scales() -> None:
    """Both terms slow down alike."""
    assert ServiceTime(alpha_s=0.001, beta_s=0.002).scaled(2).of(3) == pytest.approx(0.010)
