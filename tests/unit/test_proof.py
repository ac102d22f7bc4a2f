"""Several probes before and after a change, with a model of a few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from conch.errors import TritonUnavailable
from control.act.proof import Answers, Prober, RowsRefused
from serving import model_config
from serving.client import InferenceFailed, TritonClient

CONFIG = model_config.parse(
    'name: "m" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [4] }'
)


class Model:
    """Answers by a script, and above so many rows not at all."""

    def __init__(self, script: Iterable[bool] = (), *, rows: int = 8) -> None:
        self.script, self.rows, self.asked = list(script), rows, list[int]()
        self.unavailable = self.gone = False

    def infer(self, _: str, inputs: dict[str, Any], **__: Any) -> None:
        """One inference."""
        rows = len(inputs["x"])
        self.asked.append(rows)
        if self.unavailable:
            raise TritonUnavailable("late")
        if rows > self.rows or (self.script and not self.script.pop(0)):
            raise InferenceFailed(f"{rows} rows")

    def live(self) -> bool:
        """Whether the server is there."""
        return not self.gone


def _prober(model: Model) -> Prober:
    return Prober(cast(TritonClient, model))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([True, True, True], Answers.ALWAYS),
        ([True, False, True], Answers.SOMETIMES),
        ([False, False, False], Answers.NEVER),
    ],
)
def test_the_baseline_is_of_several_and_asked_once(script: list[bool], says: Answers) -> None:
    """One error is no dead model, one answer no healthy one."""
    model = Model(script)
    prober = _prober(model)
    assert prober.single(CONFIG) is prober.single(CONFIG) is says
    assert model.asked == [1, 1, 1]


@pytest.mark.parametrize(
    ("before", "script", "fails"),
    [
        (Answers.ALWAYS, [True, True, True], False),
        (Answers.ALWAYS, [True, False, True], True),
        (Answers.SOMETIMES, [False, False, True], False),
        (Answers.SOMETIMES, [False] * 3 + [False, True, False], False),
        (Answers.SOMETIMES, [False] * 6, True),
        (Answers.NEVER, [False] * 6, False),
    ],
)
def test_after_a_change_it_must_answer_as_before(
    before: Answers, script: list[bool], fails: bool
) -> None:
    """Held against what it did, not against what it should do."""
    prober = _prober(Model(script))
    prove: Callable[[], None] = lambda: prober.prove(CONFIG, single=before, full=False)  # noqa: E731
    if fails:
        with pytest.raises(InferenceFailed, match="probes after the change"):
            prove()
    else:
        prove()


def test_a_batch_that_is_refused_is_told_with_its_rows() -> None:
    """Where one row is answered; where that fails, too, it is no matter of the rows."""
    with pytest.raises(RowsRefused, match="a batch of 8 rows") as error:
        _prober(Model(rows=4)).prove(CONFIG, single=Answers.ALWAYS, full=True)
    assert error.value.rows == 8
    with pytest.raises(InferenceFailed) as other:
        _prober(Model(rows=0)).prove(CONFIG, single=Answers.ALWAYS, full=True)
    assert not isinstance(other.value, RowsRefused)
    _prober(Model(rows=4)).prove(CONFIG, single=Answers.ALWAYS, full=False)


def test_the_largest_batch_is_asked_once_for_each_size_and_never_a_huge_one() -> None:
    """Before a change; 256 MB of input are not sent to learn something."""
    model = Model(rows=8)
    prober = _prober(model)
    assert prober.full(CONFIG)
    assert prober.full(CONFIG)
    assert model.asked == [8]
    huge = model_config.parse(
        'name: "h" max_batch_size: 512 input { name: "x" data_type: TYPE_FP32 dims: [3, 512, 512] }'
    )
    assert not prober.full(huge)
    assert model.asked == [8]


def test_a_model_that_only_waits_is_no_fault_and_a_server_that_is_gone_is() -> None:
    """It answers late behind a queue; nothing more is asked of it then."""
    model = Model()
    model.unavailable = True
    _prober(model).prove(CONFIG, single=Answers.ALWAYS, full=True)
    assert model.asked == [1]
    assert _prober(model).answers(CONFIG) is None
    assert not _prober(model).answers_none(CONFIG)
    model.gone = True
    with pytest.raises(TritonUnavailable):
        _prober(model).prove(CONFIG, single=Answers.ALWAYS, full=True)


def test_only_a_model_that_answers_none_of_several_is_dead() -> None:
    """Unload and load are for those alone."""
    assert _prober(Model([False, False, False])).answers_none(CONFIG)
    assert not _prober(Model([False, True, False])).answers_none(CONFIG)
