"""Verdicts and reports of a variant: pure, from figures."""

import pytest

from export import judge, recipe
from export.judge import Cost, Quality, TaskScore
from export.measure import Latency
from export.parity import Agreement
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


def a_report(*, agreement=None, task=(0.90, 0.90), size=0.25, latency=0.5, is_baseline=False):
    """The report on a variant that passes every gate, but for what is named."""
    typed = recipe.loads(WHOLE + GATES)
    return judge.report(
        typed,
        typed.variants[1],
        quality=Quality(
            agreement=agreement or an_agreement(),
            task=TaskScore(variant=task[0], original=task[1]),
        ),
        cost=Cost(
            size_bytes=25,
            size_ratio=size,
            latency=Latency(ms={1: 1.0, 8: 4.0}, ratio={1: latency, 8: latency}),
        ),
        is_baseline=is_baseline,
    )


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
