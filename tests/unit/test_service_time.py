"""The curve ℓ(b): the line or table behind what was executed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.service.curves import isotonic
from control.core.service.learnt import Learnt, ServiceTime, fit
from tests.unit.evidence import SLOW, after, executed, noisy
from tests.unit.story import TRUE


def test_fit_finds_the_line_behind_enough_evidence() -> None:
    """α and β come out within 5% when several sizes were seen often."""
    learnt = Learnt().absorb(executed(b1=200, b4=200, b16=200), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=4)
    assert curve is not None
    assert curve.alpha_s == pytest.approx(TRUE.alpha_s, rel=0.05)
    assert curve.beta_s == pytest.approx(TRUE.beta_s, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_fit_is_near_although_batches_scatter(seed: int) -> None:
    """Jitter of 3%, batches of 1 to 8 seen for half a minute: α, β within 5%, and no table."""
    rng = np.random.default_rng(seed)
    curve = after(30, lambda: noisy(rng, range(1, 9))).at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.alpha_s == pytest.approx(SLOW.alpha_s, rel=0.05)
    assert curve.beta_s == pytest.approx(SLOW.beta_s, rel=0.05)
    assert curve.table == ()


@pytest.mark.parametrize("seed", range(5))
def test_fit_of_small_batches_foresees_large_ones(seed: int) -> None:
    """Only 1 to 3 were seen: ℓ(8) is within 15%, where the prior alone would say twice as much."""
    rng = np.random.default_rng(seed)
    curve = after(30, lambda: noisy(rng, range(1, 4))).at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.15)


def test_fit_of_single_requests_uses_the_prior() -> None:
    """Only b = 1 seen: half of ℓ(1) is taken as fixed, and ℓ(1) itself is kept."""
    curve = fit({1: (500.0, 500 * 0.005)})
    assert curve is not None
    assert curve.of(1) == pytest.approx(0.005, rel=0.02)
    assert curve.alpha_s == pytest.approx(0.0025, rel=0.02)


def test_fit_takes_the_shape_of_a_sibling() -> None:
    """Only b = 1 seen, but of a model like this one it is known that a batch of 8 costs little."""
    learnt = Learnt(sibling=SLOW)
    assert learnt.at(1, threads=1, cores=None) == SLOW
    assert learnt.at(4, threads=1, cores=2).of(1) == pytest.approx(2 * SLOW.of(1))
    learnt = learnt.absorb(executed(b1=500), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) / curve.of(1) == pytest.approx(SLOW.of(8) / SLOW.of(1), rel=0.01)
    assert curve.of(1) == pytest.approx(TRUE.of(1), rel=0.01)


@pytest.mark.parametrize("took_s", [0.010, 0.300])
def test_fit_takes_one_odd_batch_for_noise(took_s: float) -> None:
    """One batch of 8 that took a ninth, or three times, of what the line says moves it by < 10%."""
    seen = {b: (100.0, 100.0 * SLOW.of(b)) for b in (1, 2, 3)}
    curve = fit({**seen, 8: (1.0, took_s)})
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.10)


def test_fit_lets_one_batch_count_as_much_as_the_prior() -> None:
    """ℓ(1) is 5 ms, and a single batch of 8 took 12: half-way to the prior's 22.5."""
    curve = fit({1: (1000.0, 5.0), 8: (1.0, 0.012)})
    assert curve is not None
    assert curve.of(8) == pytest.approx(0.017, abs=0.002)


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


def test_fit_takes_a_table_where_the_line_is_wrong() -> None:
    """A kernel with tiles of 4: the step is kept, and 16 follows the line's slope."""

    def tile_s(size: int) -> float:
        return 0.010 + 0.010 * math.ceil(size / 4)

    curve = fit({b: (50.0, 50.0 * tile_s(b)) for b in range(1, 9)})
    assert curve is not None
    assert [curve.of(b) for b in range(1, 9)] == pytest.approx([tile_s(b) for b in range(1, 9)])
    assert curve.of(16) == pytest.approx(tile_s(8) + 8 * curve.alpha_s)
    assert curve.of(16) > tile_s(8)


def test_fit_needs_three_sizes_for_a_table() -> None:
    """Two sizes are a line, however steep, and a size seen once is no third one."""
    curve = fit({1: (50.0, 50.0 * 0.001), 8: (50.0, 50.0 * 0.1), 4: (1.0, 0.3)})
    assert curve is not None
    assert curve.table == ()


def test_table_interpolates_and_falls_to_no_less_than_its_share() -> None:
    """Between sizes straight; below the smallest by the line's slope, but never to 0."""
    curve = ServiceTime(alpha_s=0.002, beta_s=0.0, table=((4, 0.004), (8, 0.020)))
    assert curve.of(6) == pytest.approx(0.012)
    assert curve.of(1) == pytest.approx(0.001)
    assert curve.of(10) == pytest.approx(0.024)
    assert curve.of_each(8) == tuple(curve.of(b) for b in range(1, 9))


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=12),
)
def test_isotonic_rises_and_keeps_the_mean(rows: list[tuple[float, float]]) -> None:
    """Never falling, the weighted mean unchanged, and the same again when applied again."""
    values, weights = [v for v, _ in rows], [w for _, w in rows]
    rising = isotonic(values, weights)
    assert len(rising) == len(values)
    assert all(a <= b for a, b in pairwise(rising))
    assert np.dot(rising, weights) == pytest.approx(np.dot(values, weights))
    assert isotonic(rising, weights) == pytest.approx(rising)


@given(
    st.dictionaries(
        st.integers(1, 128),
        st.tuples(st.floats(0.5, 1e6), st.floats(1e-7, 1e3)),
        min_size=1,
        max_size=10,
    )
)
def test_curve_is_above_zero_and_never_falls(seen: dict[int, tuple[float, float]]) -> None:
    """Whatever was seen: a larger batch takes no less time, and every batch takes some."""
    curve = fit({size: (n, n * mean_s) for size, (n, mean_s) in seen.items()})
    assert curve is not None
    each = curve.of_each(160)
    assert each[0] > 0
    assert all(after >= before * (1 - 1e-9) for before, after in pairwise(each))


def test_service_time_scales() -> None:
    """Both terms and the table slow down alike; the scatter is relative already."""
    assert ServiceTime(alpha_s=0.001, beta_s=0.002).scaled(2).of(3) == pytest.approx(0.010)
    table = ServiceTime(alpha_s=0.001, beta_s=0.0, cv_fraction=0.1, table=((2, 0.004), (4, 0.005)))
    assert table.scaled(2).of(2) == pytest.approx(0.008)
    assert table.scaled(2).cv_fraction == 0.1


def test_service_time_rounds_to_a_key() -> None:
    """Curves within a step are equal, and no number moves by more than half a step."""
    near = ServiceTime(alpha_s=0.00101, beta_s=0.00402, cv_fraction=0.031, table=((2, 0.0061),))
    far = ServiceTime(alpha_s=0.00102, beta_s=0.00403, cv_fraction=0.029, table=((2, 0.0062),))
    assert near.rounded() == far.rounded()
    assert near.rounded() != near.scaled(1.2).rounded()
    assert near.rounded().alpha_s == pytest.approx(near.alpha_s, rel=0.026)
    assert hash(near.rounded()) == hash(far.rounded())
