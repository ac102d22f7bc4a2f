"""The recipe's data: what is refused and why; sample ids; rows in two parts of the data."""

import numpy as np
import pytest

from conch.errors import ConfigError
from export import recipe as recipes
from export.data import MIN_CALIBRATION_ROWS, RecipeData, equal_shapes
from export.samples import Leaks, leaks_between, sample_ids
from export.source import Source

RECIPE = """
version: 1
model:
  name: toy
  factory: model.py:load
  axes:
    sequence: {min: 1, max: 8, example: 4}
  inputs:
    - {name: ids, dtype: int64, dims: [sequence]}
    - {name: extra, dtype: float32, dims: [2]}
  outputs:
    - {name: scores, dtype: float32, dims: [4]}
data:
  calibration: data.py:part
  evaluation: data.py:part
  training: data.py:part
variants:
  - {name: fp32, steps: [to_onnx]}
"""


@pytest.fixture
def data(tmp_path):
    """Makes the data of a recipe whose function gives the batches of this Python expression."""

    def make(expression):
        (tmp_path / "data.py").write_text(
            "import numpy as np\n"
            "def batch(rows, **more):\n"
            "    return {'ids': np.arange(4 * rows).reshape(rows, 4),\n"
            "            'extra': np.ones((rows, 2), dtype=np.float32), **more}\n"
            f"def part():\n    return {expression}\n"
        )
        return RecipeData(recipes.loads(RECIPE), Source(tmp_path))

    return make


def test_training_batches_may_have_labels_of_any_dtype(data):
    """The key ``target``; the other parts have only inputs."""
    found = data("[batch(3, target=np.array([1, 0, 1], dtype=np.uint8))]").training()
    assert found[0]["target"].dtype == np.uint8
    assert set(found[0]) == {"ids", "extra", "target"}
    assert set(data("[batch(3)]").training()[0]) == {"ids", "extra"}


def test_labels_in_evaluation_data_are_refused(data):
    """The model has no such input."""
    with pytest.raises(ConfigError, match=r"keys extra, ids, target, must have ids, extra\."):
        data("[batch(3, target=np.zeros(3))]").evaluation()


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("[batch(3, target=np.zeros(2))]", r"number of rows \(ids 3, extra 3, target 2\)"),
        ("[batch(3, target=np.array(['a', 'b', 'c']))]", "must be numbers"),
        ("[batch(3, target=np.array([1, np.nan, np.inf]))]", "target holds NaN or infinity in 2"),
        ("[batch(3), batch(3, target=np.zeros(3))]", "some batches have the key target"),
        ("[batch(3, label=np.zeros(3))]", "and may have target"),
        ("[batch(3, ids=np.zeros((3, 4), dtype=np.int32))]", "ids is int32, must be int64"),
        ("[batch(3, ids=np.zeros((2, 4), dtype=int))]", r"\(ids 2, extra 3\)"),
        ("[batch(3, extra=np.zeros((3, 5), dtype=np.float32))]", r"must be \[batch, 2\]"),
        (
            "[batch(3, extra=np.float32([[0, 0], [0, 0], [0, np.nan]]))]",
            "1 of 3 rows, first in row 2",
        ),
        ("[]", "gave no batches"),
        ("batch(3)", "gave a dict, must give a list"),
        ("[[1, 2]]", "is a list, must be a mapping"),
        ("1 / 0", "raised ZeroDivisionError"),
        ("(open('/none') for _ in range(2))", "raised FileNotFoundError"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, expression, says):
    """Each with what was seen and what is allowed."""
    with pytest.raises(ConfigError, match=says) as caught:
        data(expression).training()
    assert caught.value.message.startswith("data.training: data.py:part")


def test_too_little_calibration_data_is_refused_with_the_numbers(data):
    """Rows count, not batches."""
    with pytest.raises(ConfigError, match="gave 15 rows, at least 16 are needed"):
        data(f"[batch(1)] * {MIN_CALIBRATION_ROWS - 1}").calibration()
    assert len(data(f"[batch(1)] * {MIN_CALIBRATION_ROWS}").calibration()) == MIN_CALIBRATION_ROWS


def test_examples_are_made_of_real_rows(data):
    """Of any size, repeated or cut."""
    found = data("[batch(3)]").examples({"batch": 5, "sequence": 2})
    assert found["ids"].tolist() == [[0, 1], [4, 5], [8, 9], [0, 1], [4, 5]]


def test_unequal_shapes_are_found_and_told():
    """For calibration methods that stack their batches."""
    equal = [{"x": np.zeros((2, 5))}, {"x": np.zeros((3, 5))}]
    assert equal_shapes(equal, purpose="entropy") is None
    found = equal_shapes([*equal, {"x": np.zeros((1, 9))}], purpose="the entropy method")
    assert found.message == (
        "data.calibration: x comes in 2 shapes, from [5] to [9]; the entropy method needs all of "
        "one shape."
    )


def test_sample_ids_do_not_depend_on_batching_or_padding():
    """The same text is the same sample in a batch with a longer neighbour."""
    alone = [{"ids": np.array([[7, 8]]), "mask": np.array([[1, 1]])}]
    together = [{"ids": np.array([[9, 9, 9], [7, 8, 0]]), "mask": np.array([[1, 1, 1], [1, 1, 0]])}]
    assert sample_ids(alone)[0] == sample_ids(together)[1]
    assert len(set(sample_ids(together))) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([[1.0, 3.0]])},
        {"x": np.array([[1.0, 2.0]]).view(np.int64)},
        {"y": np.array([[1.0, 2.0]])},
        {"x": np.array([[[1.0, 2.0]]])},
        {"x": np.array([[0.0, 1.0, 2.0]])},
    ],
)
def test_sample_ids_differ_for_other_content(other):
    """Values, dtype, name, rank and place all count."""
    assert sample_ids([{"x": np.array([[1.0, 2.0]])}]) != sample_ids([other])


def test_rows_of_the_evaluation_that_are_elsewhere_are_counted():
    """Labels of training rows do not hide them."""

    def rows(*values, **more):
        return [{"x": np.array(values)[:, None], **more}]

    found = leaks_between(
        rows(1, 2, 3, 3),
        calibration=rows(3, 4),
        training=rows(1, 9, target=np.array([0, 1])),
        names=["x"],
    )
    assert found == Leaks(in_calibration=2, in_training=1, repeated=1, evaluation=4)
    assert found.warnings[1].startswith("1 of 4 evaluation rows are also in data.training")
    assert Leaks(evaluation=4).warnings == ()


def test_one_function_for_all_parts_is_a_leak(data):
    """The usual way to fool oneself."""
    found = data("[batch(20)]").leaks()
    assert (found.in_calibration, found.in_training, found.repeated) == (20, 20, 0)
