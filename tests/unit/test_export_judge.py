"""Verdicts and reports of a variant: pure, from figures."""

import dataclasses
from pathlib import Path

import pytest

from conch.errors import ConfigError, ParityError
from export import judge, recipe, results
from export.gates import TaskGate
from export.judge import Cost, Quality, TaskScore
from export.measure import Latency
from export.optional import ToolMissing
from export.parity import Agreement
from export.planning import Chain, Plan
from export.report import Status
from export.results import Judged
from export.steps import Artifact, Form
from export.store import Finished
from tests.unit.test_export_recipe import WHOLE

GATES = """
gates:
  fidelity: {metric: cosine, min: 0.98}
  task: {metric: "data.py:accuracy", max_drop: 0.01}
  size: {max_ratio: 0.3}
  latency: {batch: 8, max_ratio: 0.6}
"""


def an_agreement(**figures):
    """Good agreement, but for what is named."""
    whole = {
        "sample_count": 50,
        "cosine": 0.99,
        "cosine_min": 0.97,
        "top1_agreement": 1.0,
        "sqnr_db": 20.0,
        "max_abs_diff": 0.1,
    }
    return Agreement(**(whole | figures))


def a_plan():
    """The plan of the whole recipe with all gates; its keys are made up."""
    typed = recipe.loads(WHOLE + GATES)
    chains = [
        Chain(variant=variant, candidate="", steps=variant.steps, keys=("load", variant.name),
              target=Form.ONNX, compare_key=f"compare {variant.name}")
        for variant in typed.variants
    ]  # fmt: skip
    return Plan(
        recipe_path=Path("recipe.yaml"), recipe=typed, files=(), variants=typed.variants,
        chains=tuple(chains), baseline=chains[0], load_key="load", reference_key="reference",
    )  # fmt: skip


def a_judged(
    todo, index=1, *, agreement=None, task=(0.90, 0.90), size=0.25, latency=0.5, macs=None
):
    """A chain that passes every gate, but for what is named."""
    chain = todo.chains[index]
    facts = {"complexity": {"macs": macs, "params": 10}} if macs else {}
    quality = Quality(
        agreement=agreement or an_agreement(),
        task=TaskScore(variant=task[0], original=task[1], interval=(-0.01, 0.01)),
    )
    cost = Cost(
        size_bytes=25,
        size_ratio=size,
        latency=Latency(ms={1: 1.0, 8: 4.0}, ratio={1: latency, 8: latency}),
    )
    verdicts = judge.verdicts(
        todo.recipe.gates_of(chain.variant), quality=quality, cost=cost, facts=facts,
        target=Form.ONNX, is_baseline=todo.is_baseline(chain.variant),
    )  # fmt: skip
    artifact = Artifact(form=Form.ONNX, path=Path("model.onnx"), facts=facts)
    finished = Finished(key="k", artifact=artifact, seconds=1.0, files={"model.onnx": "0" * 64})
    return Judged(chain=chain, finished=finished, quality=quality, cost=cost, verdicts=verdicts)


def a_report(*, is_baseline=False, **figures):
    """The report on a variant that passes every gate, but for what is named."""
    todo = a_plan()
    index = 0 if is_baseline else 1
    found = {"fp32": a_judged(todo, 0), todo.chains[index].name: a_judged(todo, index, **figures)}
    return results.variant_report(todo, todo.variants[index], found)[0]


def test_variant_that_keeps_all_bounds_is_accepted():
    """Four gates, four verdicts."""
    found = a_report()
    assert found.accepted
    assert found.reason == "passed 4 gates"
    assert [verdict.gate for verdict in found.gates] == [
        "fidelity.cosine",
        "task.accuracy",
        "size.ratio",
        "latency.batch8.ratio",
    ]


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"agreement": an_agreement(cosine=0.82)}, "fidelity.cosine = 0.82, must be at least 0.98"),
        ({"agreement": an_agreement(cosine=float("nan"))}, "fidelity.cosine = nan"),
        ({"task": (0.88, 0.90)}, "task.accuracy = 0.88, must be at least 0.89"),
        ({"task": (float("nan"), 0.90)}, "task.accuracy = nan"),
        ({"size": 0.31}, "size.ratio = 0.31, must be at most 0.3"),
        ({"latency": 0.7}, "latency.batch8.ratio = 0.7, must be at most 0.6"),
    ],
)
def test_variant_that_misses_one_gate_is_refused_with_that_reason(figures, reason):
    """One missed gate is enough, however good the rest is."""
    found = a_report(**figures)
    assert not found.accepted
    assert found.reason.startswith(reason)


def test_better_task_metric_does_not_excuse_lost_fidelity():
    """Quantization can wreck a model while its task metric rises."""
    assert not a_report(agreement=an_agreement(cosine=0.82), task=(0.95, 0.90)).accepted


def test_baseline_is_not_held_to_size_and_latency_gates():
    """It cannot be smaller than itself."""
    assert a_report(size=1.0, latency=1.0, is_baseline=True).accepted


def test_macs_are_told_against_the_original_s():
    """Half of the operations."""
    todo = a_plan()
    found = {"fp32": a_judged(todo, 0, macs=100), "int8": a_judged(todo, 1, macs=50)}
    assert results.variant_report(todo, todo.variants[1], found)[0].macs_ratio == 0.5


def test_latency_of_an_engine_is_not_asked_on_a_cpu():
    """Nor may it pass without TensorRT's own word."""
    todo = a_plan()
    one = a_judged(todo, latency=9.0)
    verdicts = judge.verdicts(
        todo.recipe.gates, quality=one.quality, cost=one.cost, target=Form.TENSORRT,
        facts={"tensorrt": {"gate": {"tool": "tensorrt_rtx", "version": "1", "parsed": False,
                                     "built": False, "errors": ["zero point"],
                                     "engine_bytes": None}}},
        is_baseline=False,
    )  # fmt: skip
    names = [verdict.gate for verdict in verdicts]
    assert "latency.batch8.ratio" not in names
    refused = [verdict for verdict in verdicts if not verdict.passed]
    assert refused
    assert refused[0].gate == "tensorrt.parse"
    assert "zero point" in str(refused[0])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ToolMissing("nncf is not installed."), Status.SKIPPED),
        (ParityError("the quantizer failed."), Status.FAILED),
        (ConfigError("no such node."), Status.FAILED),
    ],
)
def test_variant_that_could_not_be_built_says_why(error, status):
    """A missing tool is no failure of the model."""
    todo = a_plan()
    found = {"fp32": a_judged(todo, 0), "int8": Judged(chain=todo.chains[1], error=error)}
    report, _ = results.variant_report(todo, todo.variants[1], found)
    assert (report.status, report.accepted) == (status, False)
    assert report.reason.startswith(error.message)


def a_recipe_of(*names, **variant):
    """A plan of INT8 variants of these names, and good reports on them."""
    typed = recipe.loads(WHOLE + GATES)
    int8 = typed.variants[1].model_copy(update=variant)
    variants = (typed.variants[0], *(int8.model_copy(update={"name": name}) for name in names))
    todo = dataclasses.replace(
        a_plan(), recipe=typed.model_copy(update={"variants": variants}), variants=variants
    )
    return todo, [dataclasses.replace(a_report(), name=name) for name in names]


def test_dominated_variant_is_not_published_and_names_its_better():
    """Larger, slower, and not truer."""
    todo, (good, worse) = a_recipe_of("a", "b")
    worse = dataclasses.replace(worse, size_bytes=100)
    found = results.without_dominated(todo, [good, worse])
    assert [one.status for one in found] == [Status.ACCEPTED, Status.DOMINATED]
    assert "a is at least as good" in found[1].reason
    every = todo.recipe.model_copy(update={"publish": "accepted"})
    assert results.without_dominated(dataclasses.replace(todo, recipe=every), [good, worse]) == [
        good,
        worse,
    ]


def test_plain_export_is_published_even_where_it_is_beaten():
    """It is what the others are compared with."""
    todo, (good,) = a_recipe_of("a")
    plain = dataclasses.replace(good, name="fp32", size_bytes=100)
    found = results.without_dominated(todo, [plain, good])
    assert [one.status for one in found] == [Status.ACCEPTED, Status.ACCEPTED]


def test_variant_that_is_not_to_be_published_keeps_no_other_from_it():
    """Nothing would be left of the two."""
    todo, (good, worse) = a_recipe_of("a", "b")
    hidden = todo.variants[1].model_copy(update={"publish": False})
    variants = (todo.variants[0], hidden, todo.variants[2])
    todo = dataclasses.replace(todo, variants=variants)
    worse = dataclasses.replace(worse, size_bytes=100)
    found = results.without_dominated(todo, [good, worse])
    assert [one.status for one in found] == [Status.ACCEPTED, Status.ACCEPTED]


def test_weights_in_a_file_of_their_own_count_as_size(tmp_path):
    """And notes beside them do not."""
    for name, size in (("model.onnx", 10), ("weights.data", 1000), ("build.json", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    artifact = Artifact(
        form=Form.ONNX,
        path=tmp_path / "model.onnx",
        extra=(tmp_path / "weights.data", tmp_path / "build.json"),
    )
    assert sum(path.stat().st_size for path in judge.weights(artifact)) == 1010


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_drop": 0.1}, [0.8]),
        ({"max_drop_ratio": 0.5}, [0.45]),
        ({"min": 0.7}, [0.7]),
        ({"max_drop": 0.1, "min": 0.85}, [0.8, 0.85]),
    ],
)
def test_task_limits_are_against_the_original_or_absolute(limits, expected):
    """Each limit that is set is a verdict of its own."""
    gate = TaskGate(metric="data.py:accuracy", **limits)
    assert judge.task_limits(gate, 0.9) == pytest.approx(expected)


def test_ratio_of_a_negative_score_allows_a_drop_too():
    """A loss of -100 may become -103, not -97."""
    gate = TaskGate(metric="play.py:reward", max_drop_ratio=0.03)
    assert judge.task_limits(gate, -100.0) == pytest.approx([-103.0])
