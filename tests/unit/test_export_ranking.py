"""Which variant is better, from what their lineages tell."""

import dataclasses
import json
import math

import pytest

from export import publish, ranking, recipe
from export.parity import Agreement
from export.report import VariantReport
from tests.unit.test_export_recipe import changed
from tests.unit.toy_variants import artifact

__all__ = ["artifact"]


def lineage(cosine=None, task=None, interval=None, original=0.8):
    """A version's, with these figures."""
    told = {"metric": "data.py:f1", "value": task, "original": original, "interval": interval}
    return {
        "quality": {
            "task": None if task is None else told,
            "fidelity": None
            if cosine is None
            else {"metric": "cosine", "output": None, "value": cosine},
        }
    }


def best_first(*lineages):
    """Indices of the lineages, given in the recipe's order."""
    figures = [ranking.figures(one) for one in lineages]
    return ranking.ascending(figures, ranking.criteria(figures))[::-1]


def test_the_task_counts_first_then_fidelity_then_the_recipes_order():
    """A pruned variant that was trained further may be better than what it came from."""
    assert best_first(lineage(1.0, 0.8), lineage(0.9, 0.85)) == [1, 0]
    assert best_first(lineage(0.9, 0.8), lineage(1.0, 0.8)) == [1, 0]
    assert best_first(lineage(1.0, 0.8), lineage(1.0, 0.8)) == [0, 1]
    assert best_first({}, {}, {}) == [0, 1, 2]


def test_a_task_score_that_may_be_luck_does_not_count():
    """INT8 that scores 0.0005 more on 50 documents is no better; fidelity tells them apart."""
    luck = lineage(0.99, 0.8005, interval=[-0.011, 0.013])
    assert best_first(lineage(1.0, 0.8, interval=[0.0, 0.0]), luck) == [0, 1]
    surely = lineage(0.9, 0.83, interval=[0.01, 0.05])
    assert best_first(luck, surely) == [1, 0]
    worse = lineage(1.0, 0.77, interval=[-0.05, -0.01])
    assert best_first(worse, luck) == [1, 0]


def test_only_what_all_were_measured_by_counts():
    """A score that one of them lacks says nothing about the order."""
    assert best_first(lineage(0.9, 0.85), lineage(1.0)) == [1, 0]
    assert best_first(lineage(None, 0.7), lineage(1.0)) == [0, 1]
    other = lineage(1.0, 0.9)
    other["quality"]["task"]["metric"] = "data.py:accuracy"
    assert best_first(lineage(0.9, 0.1), other) == [1, 0]


@pytest.mark.parametrize(
    "odd",
    [None, 7, [], {}, {"task": 3, "fidelity": None}, {"task": None},
     {"task": None, "fidelity": {"metric": "cosine", "output": None, "value": math.nan}},
     {"task": None, "fidelity": {"metric": "cosine", "output": None, "value": None}},
     {"task": None, "fidelity": {"metric": "cosine", "output": None, "value": 10**400}},
     {"task": {"metric": "m", "value": 1, "original": 1, "interval": "ab"}, "fidelity": None}],
)  # fmt: skip
def test_a_lineage_that_cannot_be_understood_tells_nothing(odd):
    """Anybody may have written it."""
    assert ranking.figures({"quality": odd}) == {}
    assert ranking.words({"quality": odd}) == ""


def test_the_lineage_of_a_variant_keeps_what_its_gates_measured(artifact):
    """Through JSON, which has no infinity."""
    gate = {"metric": "data.py:f1", "max_drop": 0.1}
    typed = recipe.loads(changed("gates", to={"task": gate}))
    agreement = Agreement(
        sample_count=2, cosine=1, cosine_min=1, top1_agreement=1, sqnr_db=math.inf, max_abs_diff=0
    )
    report = VariantReport(
        name="int8",
        published_name="toy_int8",
        agreement=agreement,
        fidelity=math.inf,
        task_metric=0.79,
        task_baseline=0.8,
        task_interval=(-0.02, -0.001),
    )

    def told(of):
        found = publish.lineage(typed, recipe_sha256="", report=of, artifact=artifact)
        return json.loads(json.dumps({"quality": found["quality"]}, allow_nan=False))

    assert ranking.figures(told(report)) == pytest.approx(
        {"task data.py:f1": -0.01, "fidelity cosine": math.inf}
    )
    assert ranking.words(told(report)) == "f1 0.79 (original 0.8), cosine inf"
    luck = dataclasses.replace(report, task_interval=(-0.02, 0.001))
    assert ranking.figures(told(luck))["task data.py:f1"] == 0
    bare = dataclasses.replace(report, fidelity=None, task_metric=None)
    assert told(bare) == {"quality": {"task": None, "fidelity": None}}
