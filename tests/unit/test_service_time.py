"""Learning ℓ(b, c) from what was executed."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.curves import isotonic
from control.core.interference import Interference, Level, fitted
from control.core.saved import from_plain, to_plain
from control.core.service_time import NO_LIMIT, Learnt, ServiceTime, fit, relative_time
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE

SLOW = ServiceTime(alpha_s=0.008, beta_s=0.032)


def _executed(_curve: ServiceTime = TRUE, _factor: float = 1.0, **batches: int) -> ModelStatistics:
    """``b4=10``: ten batches of 4 that took the true time (× factor)."""
    stats = {
        int(name[1:]): BatchStat(count=n, busy_s=n * _factor * _curve.of(int(name[1:])))
        for name, n in batches.items()
    }
    return ModelStatistics(batches=stats)


def _noisy(rng: np.random.Generator, sizes: range, *, cv: float = 0.03) -> ModelStatistics:
    """A few batches of each size, which scatter around SLOW."""
    stats = {}
    for size in sizes:
        count = int(rng.integers(1, 5))
        busy_s = SLOW.of(size) * float(np.sum(1.0 + cv * rng.standard_normal(count)))
        stats[size] = BatchStat(count=count, busy_s=busy_s)
    return ModelStatistics(batches=stats)


def _after(ticks: int, executed: object, learnt: Learnt | None = None, *, instances: int = 1):
    """What is learnt from so many seconds; ``executed`` gives each second's statistics."""
    learnt = learnt or Learnt()
    for _ in range(ticks):
        learnt = learnt.absorb(executed(), instances=instances, threads=1, span_s=1)
    return learnt


def _seen_at(*levels: float, cores_busy: int = 10) -> Learnt:
    """Counts 1, 2, ... were seen fully busy, each this much slower than TRUE."""
    learnt = Learnt()
    for count, level in enumerate(levels, start=1):
        batches = dict.fromkeys(("b1", "b4", "b8"), cores_busy * count)
        executed = _executed(TRUE, level, **batches)
        busy_s = sum(stat.busy_s for stat in executed.batches.values())
        for _ in range(10):
            learnt = learnt.absorb(executed, instances=count, threads=1, span_s=busy_s / count)
    return learnt


def test_fit_finds_the_line_behind_enough_evidence() -> None:
    """α and β come out within 5% when several sizes were seen often."""
    learnt = Learnt().absorb(_executed(b1=200, b4=200, b16=200), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=4)
    assert curve is not None
    assert curve.alpha_s == pytest.approx(TRUE.alpha_s, rel=0.05)
    assert curve.beta_s == pytest.approx(TRUE.beta_s, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_fit_is_near_although_batches_scatter(seed: int) -> None:
    """Jitter of 3%, batches of 1 to 8 seen for half a minute: α, β within 5%, and no table."""
    rng = np.random.default_rng(seed)
    curve = _after(30, lambda: _noisy(rng, range(1, 9))).at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.alpha_s == pytest.approx(SLOW.alpha_s, rel=0.05)
    assert curve.beta_s == pytest.approx(SLOW.beta_s, rel=0.05)
    assert curve.table == ()


@pytest.mark.parametrize("seed", range(5))
def test_fit_of_small_batches_foresees_large_ones(seed: int) -> None:
    """Only 1 to 3 were seen: ℓ(8) is within 15%, where the prior alone would say twice as much."""
    rng = np.random.default_rng(seed)
    curve = _after(30, lambda: _noisy(rng, range(1, 4))).at(1, threads=1, cores=None)
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
    learnt = learnt.absorb(_executed(b1=500), instances=1, threads=1, span_s=1)
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


@pytest.mark.parametrize("cv", [0.03, 0.3])
def test_learnt_knows_how_much_batches_scatter(cv: float) -> None:
    """The coefficient of variation, from sums alone, within 15%; the sums hide most of it."""
    rng = np.random.default_rng(1)
    curve = _after(60, lambda: _noisy(rng, range(1, 9), cv=cv)).at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.cv_fraction == pytest.approx(cv, rel=0.15)


def test_learnt_takes_a_drift_for_no_scatter() -> None:
    """A model that becomes 1% slower each second has no scatter to speak of."""
    learnt = Learnt()
    for tick in range(60):
        learnt = learnt.absorb(_executed(TRUE, 1.01**tick, b4=20), instances=1, threads=1, span_s=1)
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.cv_fraction < 0.05


def test_learnt_forgets() -> None:
    """After ten half-lives the old speed no longer counts."""
    slow = ModelStatistics(batches={4: BatchStat(count=100, busy_s=10.0)})
    learnt = Learnt().absorb(slow, instances=1, threads=1, span_s=1)
    learnt = learnt.absorb(_executed(b4=100), instances=1, threads=1, span_s=300)
    curve = learnt.at(1, threads=1, cores=1)
    assert curve is not None
    assert curve.of(4) == pytest.approx(TRUE.of(4), rel=0.1)


def test_learnt_keeps_large_batches_through_a_night_of_single_requests() -> None:
    """Two hours without a batch of 8: its time is still known within 10%, against the prior."""
    learnt = _after(30, lambda: _executed(SLOW, b1=3, b8=10))
    learnt = _after(7200, lambda: _executed(SLOW, b1=3), learnt)
    curve = learnt.at(1, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.1)


def test_learnt_is_the_same_after_a_time_without_a_batch() -> None:
    """Silence teaches nothing, and wipes out nothing."""
    learnt = Learnt().absorb(_executed(b1=50), instances=1, threads=1, span_s=1)
    assert learnt.absorb(ModelStatistics(), instances=1, threads=1, span_s=1e6) is learnt


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 10**7),
)
def test_learnt_rejects_what_no_batch_can_have(busy_s: float, span_s: float, size: int) -> None:
    """NaN, infinite, negative, zero: the curve stays finite and above 0, and known stays known."""
    known = Learnt().absorb(_executed(b1=50, b8=50), instances=1, threads=1, span_s=1)
    odd = ModelStatistics(batches={size: BatchStat(count=3, busy_s=busy_s)})
    learnt = known.absorb(odd, instances=1, threads=1, span_s=span_s)
    curve = learnt.at(2, threads=1, cores=2)
    assert curve is not None
    assert all(0 < seconds < math.inf for seconds in curve.of_each(16))
    if not (math.isfinite(busy_s) and busy_s > 0 and math.isfinite(span_s) and span_s >= 0):
        assert learnt is known


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


def test_learnt_shares_the_curve_between_counts() -> None:
    """Large batches were seen at one instance only, small ones at two: both know ℓ(8)."""
    learnt = _after(30, lambda: _executed(SLOW, b1=5, b4=5, b8=5))
    learnt = _after(30, lambda: _executed(SLOW, b1=5), learnt, instances=2)
    curve = learnt.at(2, threads=1, cores=None)
    assert curve is not None
    assert curve.of(8) == pytest.approx(SLOW.of(8), rel=0.05)


def test_learnt_sees_that_instances_do_not_interfere() -> None:
    """One and two took the same on an accelerator: eight are predicted to as well."""
    learnt = _seen_at(1.0, 1.0)
    eight = learnt.at(8, threads=1, cores=None)
    assert eight is not None
    assert eight.of(8) == pytest.approx(TRUE.of(8), rel=0.02)
    assert learnt.trusted_up_to(1, None) == NO_LIMIT


def test_learnt_sees_how_much_instances_interfere() -> None:
    """Two took half as long again as one: eight are predicted to take 4.5 times as long."""
    learnt = _seen_at(1.0, 1.5)
    two, eight = learnt.at(2, threads=1, cores=None), learnt.at(8, threads=1, cores=None)
    assert two is not None
    assert eight is not None
    assert two.of(8) == pytest.approx(1.5 * TRUE.of(8), rel=0.05)
    assert eight.of(8) == pytest.approx(4.5 * TRUE.of(8), rel=0.1)
    assert learnt.trusted_up_to(1, None) == 3


def test_learnt_keeps_what_a_count_showed_beyond_the_law() -> None:
    """Free up to two, then a cliff: no law fits, but each count that was seen is known."""
    learnt = _seen_at(1.0, 1.0, 1.6)
    for count, level in ((1, 1.0), (2, 1.0), (3, 1.6)):
        curve = learnt.at(count, threads=1, cores=None)
        assert curve is not None
        assert curve.of(8) == pytest.approx(level * TRUE.of(8), rel=0.06)


def test_learnt_scales_a_count_that_was_seen_idle() -> None:
    """Two instances on one core, seen busy for a tenth of the time: when both are, they share."""
    learnt = Learnt()
    for _ in range(10):
        learnt = learnt.absorb(_executed(b1=40), instances=2, threads=1, span_s=1)
    curve = learnt.at(2, threads=1, cores=1)
    assert curve is not None
    assert curve.of(1) == pytest.approx(2.0 / 1.1 * TRUE.of(1), rel=0.02)


def test_learnt_believes_the_cores_until_it_sees_otherwise() -> None:
    """2 cores: 4 are to share them; but three that were as fast as one show that they only wait."""
    on_cores, waiting = _seen_at(1.0, 1.0, 1.5), _seen_at(1.0, 1.0, 1.0)
    crowded, free = on_cores.at(4, threads=1, cores=2), waiting.at(4, threads=1, cores=2)
    assert crowded is not None
    assert free is not None
    assert crowded.of(8) == pytest.approx(2 * TRUE.of(8), rel=0.05)
    assert free.of(8) == pytest.approx(TRUE.of(8), rel=0.05)
    assert on_cores.trusted_up_to(1, 2) == 4
    assert waiting.trusted_up_to(1, 2) == NO_LIMIT


def test_trusted_up_to_is_one_more_than_was_seen() -> None:
    """The first step is a probe; on a CPU there is more where cores are free."""
    assert Learnt().trusted_up_to(1, None) == 1
    assert Learnt().trusted_up_to(2, 8) == 4
    one = _seen_at(1.0)
    assert one.trusted_up_to(1, None) == 2
    assert one.trusted_up_to(1, 1) == 2
    assert one.trusted_up_to(1, 6) == 6
    assert _seen_at(1.0, 1.0).trusted_up_to(1, 2) == 3  # within the cores nothing can be told
    assert _seen_at(1.0, 1.0).trusted_up_to(1, 8) == 8
    assert _seen_at(1.0, 1.2).trusted_up_to(1, 4) == 4


def test_counts_that_were_idle_tell_nothing_of_interference() -> None:
    """Two instances that were hardly ever busy together are no comparison with one."""
    learnt = Learnt()
    for count in (1, 2):
        for _ in range(10):
            learnt = learnt.absorb(_executed(b1=4), instances=count, threads=1, span_s=1)
    assert learnt.visited(1) == (1, 2)
    assert learnt.trusted_up_to(1, None) == 3


def test_visited_needs_more_than_a_batch_or_two() -> None:
    """A count that was in force without work, or nearly, was not seen."""
    learnt = Learnt().absorb(_executed(b1=2), instances=4, threads=1, span_s=1)
    assert learnt.visited(1) == ()
    learnt = learnt.absorb(_executed(b1=2), instances=4, threads=1, span_s=1)
    assert learnt.visited(1) == (4,)
    assert learnt.visited(2) == ()


@given(
    st.lists(
        st.builds(
            Level,
            st.floats(1, 16),
            st.floats(1, 8),
            st.floats(0.1, 10),
            st.floats(0.01, 1),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_interference_stays_within_its_law(levels: list[Level]) -> None:
    """Whatever the levels: 0 ≤ φ ≤ 1, 0 ≤ κ ≤ 1, and more instances are never faster each."""
    law = fitted(levels)
    assert 0.0 <= law.phi <= 1.0
    assert 0.0 <= law.kappa <= 1.0
    assert law.factor(1, share=1.0) == 1.0
    assert law.factor(4, share=2.0) <= law.factor(5, share=2.5)


def test_interference_is_none_until_counts_differ() -> None:
    """A difference of 3% between 1 and 1.05 busy instances is noise."""
    law = fitted([Level(1.0, 1.0, 1.0, 1.0), Level(1.05, 1.0, 1.03, 1.0)])
    assert law.phi < 0.1
    assert Interference().factor(8, share=1.0) == 1.0


def test_relative_time_is_one_for_one_thread_on_free_cores() -> None:
    """And threads beyond the cores make everything slower; an accelerator has no cores to share."""
    assert relative_time(2, threads=1, cores=4) == 1.0
    assert relative_time(1, threads=2, cores=4) < 1.0
    assert relative_time(8, threads=1, cores=4) == 2.0
    assert relative_time(8, threads=1, cores=None) == 1.0


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


@given(
    st.lists(
        st.tuples(
            st.integers(1, 8),
            st.integers(1, 4),
            st.dictionaries(
                st.integers(1, 64),
                st.builds(BatchStat, count=st.integers(1, 1000), busy_s=st.floats(1e-3, 100)),
                max_size=4,
            ),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_saved_comes_back_equal(
    looks: list[tuple[int, int, dict[int, BatchStat]]], with_sibling: bool
) -> None:
    """Through JSON text and back: the same value, which answers the same."""
    learnt = Learnt(sibling=SLOW if with_sibling else None)
    for instances, threads, batches in looks:
        learnt = learnt.absorb(
            ModelStatistics(batches=batches), instances=instances, threads=threads, span_s=1
        )
    again = from_plain(json.loads(json.dumps(to_plain(learnt))))
    assert again == learnt
    assert again.at(2, threads=1, cores=4) == learnt.at(2, threads=1, cores=4)


def _plain_with(**changes: object) -> dict[str, object]:
    """A saved value with something else in it."""
    return {**to_plain(_seen_at(1.0)), **changes}


def _setting_with(**changes: object) -> dict[str, object]:
    """A saved value whose only setting has something else in it."""
    plain = to_plain(_seen_at(1.0))
    return {**plain, "seen": [{**plain["seen"][0], **changes}]}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        "learnt",
        {},
        {"schema": 1},
        _plain_with(schema=2),
        _plain_with(seen=[{}]),
        _plain_with(seen="x"),
        _plain_with(clock_s=float("nan")),
        _plain_with(sibling={"alpha_s": 1}),
        _setting_with(instances=0),
        _setting_with(threads="1"),
        _setting_with(busy_s=-1.0),
        _setting_with(sizes={}),
        _setting_with(sizes={"4": [1.0]}),
        _setting_with(sizes={"x": [1.0, 0.1, 1.0, 0.1, 1.0]}),
        _setting_with(sizes={"4": [1.0, float("inf"), 1.0, 0.1, 1.0]}),
        _setting_with(sizes={"4": [0.0, 0.1, 1.0, 0.1, 1.0]}),
    ],
)
def test_damaged_or_unknown_data_is_nothing_learnt(damaged: object) -> None:
    """A restart with such a journal starts from nothing instead of failing."""
    assert from_plain(to_plain(_seen_at(1.0))) != Learnt()
    assert from_plain(damaged) == Learnt()


def test_saved_evidence_is_older_after_a_time_away() -> None:
    """It still answers the same; what is then seen at another count finds it a day older."""
    plain = to_plain(_seen_at(1.0))
    day = from_plain(plain, away_s=86400.0)
    assert day.clock_s == _seen_at(1.0).clock_s + 86400.0
    assert day.at(1, threads=1, cores=None) == _seen_at(1.0).at(1, threads=1, cores=None)
    assert from_plain(plain, away_s=math.nan) == Learnt()
