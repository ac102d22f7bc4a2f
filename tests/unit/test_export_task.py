"""Task metrics: one number, one score a sample, or a statistic of resampled rows."""

import numpy as np
import pytest

from conch.errors import ConfigError
from export import task
from export.source import Source
from export.task import TaskResult

METRICS = """
import numpy as np

def number(outputs):
    return 0.5

def right(outputs):
    return np.concatenate([batch["y"] for batch in outputs]) > 0

def median(outputs, sample=None):
    rows = np.concatenate([batch["y"] for batch in outputs])
    return np.median(rows if sample is None else rows[sample])

def only_whole(outputs, sample=None):
    if sample is not None:
        raise RuntimeError("no")
    return 1.0

def played(predict):
    return [float(predict({"x": np.full((1, 1), start)})["y"][0, 0]) for start in range(5)]

def nothing(outputs):
    return None

def table(outputs):
    return np.ones((2, 2))

def broken(outputs):
    return float("nan")

def some_broken(outputs):
    return np.array([1.0, np.inf])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A recipe's folder with metrics of every kind."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "data.py").write_text(METRICS)
    return Source(folder)


def outputs(*batches):
    """Outputs ``y`` of a few batches."""
    return [{"y": np.array(batch, dtype=np.float32)} for batch in batches]


def score(source, name, *batches):
    """The score by one of the metrics above."""
    return task.score(source, f"data.py:{name}", outputs(*batches), seed=0)


def test_one_number_is_a_score_without_an_interval(source):
    """Nothing is known of its spread."""
    found = score(source, "number", [1, 2])
    assert found == TaskResult(value=0.5)
    assert task.interval(found, found, seed=0) is None


def test_scores_a_sample_give_their_mean_and_a_paired_interval(source):
    """100 samples; the variant gets 5 of them wrong that the original gets right."""
    variant = score(source, "right", [-1] * 5 + [1] * 45, [1] * 50)
    original = score(source, "right", [1] * 50, [1] * 50)
    assert (variant.value, original.value) == (0.95, 1.0)
    found = task.interval(variant, original, seed=0)
    assert found.low == pytest.approx(-0.05 - 1.96 * np.sqrt(0.05 * 0.95 / 100), abs=0.012)
    assert -0.02 <= found.high <= 0.0


def test_scores_survive_being_stored_as_facts(source):
    """The original's are computed once and read from the store later."""
    found = score(source, "right", [1, -1, 1])
    assert TaskResult.from_facts(found.as_facts()) == found
    number = score(source, "number", [1])
    assert TaskResult.from_facts(number.as_facts()) == number


def test_metric_that_is_no_mean_is_resampled_over_all_batches(source):
    """The same rows are drawn for both, so a constant shift of the median has no spread."""
    values = np.random.default_rng(0).normal(size=30)
    original = score(source, "median", values[:10], values[10:])
    variant = score(source, "median", values[:10] - 0.25, values[10:] - 0.25)
    assert original.row_count == 30
    found = task.interval(variant, original, seed=0)
    assert (found.low, found.high) == pytest.approx((-0.25, -0.25), abs=1e-6)


def test_metric_that_fails_on_resampled_rows_is_refused(source):
    """It says that it can, and cannot."""
    found = score(source, "only_whole", [1, 2, 3])
    with pytest.raises(ConfigError, match="fails on resampled rows") as caught:
        task.interval(found, found, seed=0)
    assert "leave the keyword out" in caught.value.hint


def test_metric_that_acts_is_given_a_model_to_ask(source):
    """Each episode's return is a sample."""
    found = task.play(source, "data.py:played", lambda batch: {"y": batch["x"] * 2}, seed=0)
    assert found.per_sample == (0.0, 2.0, 4.0, 6.0, 8.0)
    assert found.value == 4.0


def test_unequal_numbers_of_scores_are_refused(source):
    """They cannot be paired."""
    with pytest.raises(ConfigError, match="gave 2 scores for the variant and 3"):
        task.interval(score(source, "right", [1, 1]), score(source, "right", [1, 1, 1]), seed=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "gave None, must give a finite number"),
        ("table", r"gave an array of shape \[2, 2\]"),
        ("broken", "gave nan, must give"),
        ("some_broken", "gave 1 scores of NaN or infinity"),
        ("gone", "has no function gone"),
    ],
)
def test_metric_that_gives_no_score_is_refused(source, name, says):
    """With what it gave."""
    with pytest.raises(ConfigError, match=says):
        score(source, name, [1, 2])
