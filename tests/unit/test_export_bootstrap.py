"""Intervals by the bootstrap: against theory, against scipy, and on inputs that have none."""

import numpy as np
import pytest
import scipy.stats

from export import bootstrap


def test_interval_of_a_mean_is_the_normal_one_for_many_samples():
    """The central limit theorem says what the resampling must find: mean ± 1.96 s / sqrt(n)."""
    values = np.random.default_rng(1).normal(10, 2, size=4000)
    found = bootstrap.mean_interval(values, resamples=4000, seed=0)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(values.mean() + half, abs=half * 0.1)


def test_interval_of_a_mean_agrees_with_scipy():
    """Few and skewed samples, where theory is of no help."""
    values = np.random.default_rng(2).exponential(size=40)
    found = bootstrap.mean_interval(values, resamples=5000, level=0.9, seed=0)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, confidence_level=0.9, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_interval_holds_the_truth_about_as_often_as_it_says():
    """The promise itself: 90 % intervals of 200 new samples of mean 0.3."""
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        found = bootstrap.mean_interval(
            random.random(60) < 0.3, level=0.9, resamples=300, seed=trial
        )
        hits += found.low <= 0.3 <= found.high
    assert 0.83 <= hits / 200 <= 0.96


def test_paired_interval_is_far_narrower_than_that_of_either_score():
    """What is hard for both cancels out."""
    original = np.random.default_rng(4).normal(size=500)
    variant = original - 0.01
    found = bootstrap.paired_difference(variant, original, seed=0)
    alone = bootstrap.mean_interval(variant, seed=0)
    assert found.low == pytest.approx(-0.01)
    assert found.high == pytest.approx(-0.01)
    assert alone.high - alone.low > 0.1


def test_statistic_of_the_mean_agrees_with_the_interval_of_the_mean():
    """Two ways to the same figure."""
    values = np.random.default_rng(5).normal(size=80)
    one = bootstrap.statistic(lambda i: float(values[i].mean()), 80, resamples=4000, seed=0)
    other = bootstrap.mean_interval(values, resamples=4000, seed=1)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.03)


def test_equal_seeds_give_equal_intervals():
    """A re-run must publish the same report."""
    values = np.arange(50.0)
    assert bootstrap.mean_interval(values, seed=7) == bootstrap.mean_interval(values, seed=7)
    assert bootstrap.mean_interval(values, seed=7) != bootstrap.mean_interval(values, seed=8)


def test_resampling_in_parts_changes_nothing(monkeypatch):
    """Large data sets are drawn a few resamples at a time."""
    values = np.random.default_rng(6).normal(size=100)
    whole = bootstrap.mean_interval(values, resamples=500, seed=0)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 700)
    assert bootstrap.mean_interval(values, resamples=500, seed=0) == whole


def test_few_undefined_resamples_are_left_out_and_many_are_refused():
    """A correlation has no value where all drawn rows are equal."""
    values = iter([float("nan")] * 4 + [1.0] * 96)
    found = bootstrap.statistic(lambda _: next(values), 10, resamples=100, seed=0)
    assert (found.low, found.high) == (1.0, 1.0)
    with pytest.raises(ValueError, match="100 of 100 resamples gave no number"):
        bootstrap.statistic(lambda _: float("nan"), 10, resamples=100, seed=0)


@pytest.mark.parametrize(
    ("values", "says"),
    [([1.0], "at least 2"), ([[1.0, 2.0]], "at least 2"), ([1.0, float("nan")], "NaN")],
)
def test_scores_without_an_interval_are_refused(values, says):
    """One sample has no spread; NaN would spread into every resample."""
    with pytest.raises(ValueError, match=says):
        bootstrap.mean_interval(values, seed=0)


def test_unequal_numbers_of_scores_cannot_be_paired():
    """They would be scores of other samples."""
    with pytest.raises(ValueError, match="3 scores against 2"):
        bootstrap.paired_difference([1, 2, 3], [1, 2], seed=0)
