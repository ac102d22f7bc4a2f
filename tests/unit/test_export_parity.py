"""Numeric agreement and verdicts."""

import math

import numpy as np
import pytest

from export import parity


def outputs(*batches, name="y"):
    """Batches of one output."""
    return [{name: np.array(batch, dtype=np.float32)} for batch in batches]


def test_cosine_is_one_for_equal_directions_and_zero_for_orthogonal_ones():
    """Length does not count, direction does."""
    found = parity.cosine(np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([[3.0, 3.0], [0.0, 2.0]]))
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-12)


def test_cosine_of_equal_rows_is_exactly_one():
    """Rounding must not fail a bound of 1.0."""
    rows = np.random.default_rng(0).standard_normal((500, 7))
    assert (parity.cosine(rows, rows) == 1.0).all()
    assert parity.compare([{"a": rows}], [{"a": rows}]).cosine == 1.0
    assert parity.cosine(rows, rows + 1e-4 * np.eye(500, 7)).min() < 1.0


def test_cosine_of_zero_rows_agrees_only_with_zero_rows():
    """A row of zeros has no direction, but two of them are equal."""
    found = parity.cosine(np.zeros((2, 3)), np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert found.tolist() == [1.0, 0.0]


def test_cosine_flattens_all_axes_but_the_batch():
    """A feature map is one vector a sample."""
    maps = np.arange(24.0).reshape(2, 3, 4) + 1
    assert parity.cosine(maps, maps).shape == (2,)


def test_top1_agreement_is_the_fraction_of_equal_decisions():
    """Three of four rows decide alike."""
    reference = np.eye(4)
    candidate = np.eye(4)[[0, 1, 2, 0]]
    assert parity.top1_agreement(reference, candidate) == 0.75


def test_sqnr_is_twenty_decibels_for_ten_percent_noise():
    """Noise of a tenth of the amplitude is a hundredth of the power."""
    signal = np.full((4, 8), 10.0)
    assert parity.sqnr_db(signal, signal + 1.0) == pytest.approx(20.0)
    assert parity.sqnr_db(signal, signal) == math.inf


def test_compare_weighs_samples_not_batches():
    """A last batch with one bad row counts as one row."""
    reference = outputs([[1, 0]] * 3, [[1, 0]])
    candidate = outputs([[1, 0]] * 3, [[0, 1]])
    found = parity.compare(reference, candidate)
    assert found.sample_count == 4
    assert found.cosine == pytest.approx(0.75)
    assert found.top1_agreement == pytest.approx(0.75)
    assert found.cosine_min == pytest.approx(0.0)
    assert found.max_abs_diff == 1.0


def test_compare_takes_the_worst_output_unless_one_is_named():
    """One broken head cannot hide behind a good one."""
    good, bad = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    reference = [{"a": good, "b": good}]
    candidate = [{"a": good, "b": bad}]
    assert parity.compare(reference, candidate).cosine == pytest.approx(0.0)
    assert parity.compare(reference, candidate, output="a").cosine == pytest.approx(1.0)


def test_compare_gives_nan_when_one_entry_is_nan():
    """NaN must not vanish in a mean or a min."""
    found = parity.compare(outputs([[1, 2], [3, 4]]), outputs([[1, 2], [math.nan, 4]]))
    assert math.isnan(found.cosine)
    assert math.isnan(found.top1_agreement)
    assert math.isnan(found.sqnr_db)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (outputs([[1, 2, 3]]), "shape"),
        (outputs([[1, 2]], name="z"), "missing"),
        ([], "batches"),
    ],
)
def test_compare_refuses_outputs_that_do_not_match(candidate, message):
    """Broadcasting would hide a lost axis."""
    with pytest.raises(ValueError, match=message):
        parity.compare(outputs([[1, 2]]), candidate)


@pytest.mark.parametrize("value", [0.5, math.nan, -math.inf])
def test_at_least_fails_below_its_limit_and_for_no_number(value):
    """A gate that cannot be judged is not passed."""
    assert not parity.at_least("fidelity.cosine", value, 0.98).passed


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
def test_at_most_fails_above_its_limit_and_for_no_number(value):
    """The same for upper bounds."""
    assert not parity.at_most("size.ratio", value, 0.3).passed


def test_bounds_are_inclusive():
    """Exactly the limit passes."""
    assert parity.at_least("g", 0.98, 0.98).passed
    assert parity.at_most("g", 0.3, 0.3).passed


def test_verdict_says_value_and_limit():
    """The sentence that a refusal prints."""
    verdict = parity.at_least("fidelity.cosine", 0.82, 0.98)
    assert str(verdict) == "fidelity.cosine = 0.82, must be at least 0.98"


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        ({"y": np.array([1.0, 2.0])}, ""),
        ({"y": np.array([1.0, 2.00001])}, ""),
        ({"y": np.array([1.0, 2.1])}, "differs by up to 0.1"),
        ({"y": np.array([1.0])}, "shape [1], expected [2]"),
        ({"y": np.array([1.0, math.nan])}, "NaN"),
        ({}, "missing"),
    ],
)
def test_close_says_why_outputs_are_not_equal(got, problem):
    """Empty text is agreement; anything else names the fault."""
    found = parity.close({"y": np.array([1.0, 2.0])}, got, atol=1e-4, rtol=1e-3)
    assert (found == "") == (problem == "")
    assert problem in found


def test_verdict_shows_as_many_digits_as_it_takes_to_tell_value_from_limit():
    """Else a refusal reads "0.98, must be at least 0.98"."""
    verdict = parity.at_least("fidelity.cosine", 0.97999, 0.98)
    assert str(verdict) == "fidelity.cosine = 0.97999, must be at least 0.98"
