"""``conch perf bench scale``: what it prints is what it measured. No times are asserted."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cli import perf_scale
from perf.bench import live
from perf.bench.live import LiveResult


def test_the_ratio_is_that_of_the_cost_per_model_of_many_and_few() -> None:
    """A tenth of models and servers is measured first."""
    asked = ["--models", "20", "--servers", "10", "--ticks", "20", "--json"]
    shown = CliRunner().invoke(perf_scale.scale, asked, catch_exceptions=False)
    found = json.loads(shown.output)
    few, many = found["few"], found["many"]
    assert (few["models"], few["servers"]) == (2, 1)
    assert (many["models"], many["servers"], many["ticks"]) == (20, 10, 20)
    assert found["per_model_ratio"] == pytest.approx(many["per_model_s"] / few["per_model_s"])
    assert 0 < many["tick_p50_s"] <= many["tick_p99_s"] <= many["tick_max_s"]
    assert many["changes"] > 0  # loads go up and down: one that never acts would cost less
    assert found["simulated"] is True


def test_a_live_run_says_which_part_of_a_core_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time by time; five models where nothing else is asked for."""
    asked: list[tuple[int, float]] = []

    def run(*, models: int, seconds: float) -> LiveResult:
        asked.append((models, seconds))
        return LiveResult(
            models=models, tick_s=1.0, seconds=30.0, cpu_s=0.45, ticks=150, answered=600
        )

    monkeypatch.setattr(live, "run", run)
    shown = CliRunner().invoke(perf_scale.scale, ["--live"], catch_exceptions=False)
    assert "5 models on a real Triton" in shown.output
    assert "1.5% of a core over 30 s" in shown.output
    found = CliRunner().invoke(perf_scale.scale, ["--live", "--json", "--models", "2"])
    assert json.loads(found.output)["core_fraction"] == pytest.approx(0.015)
    assert asked == [(5, 30.0), (2, 30.0)]
