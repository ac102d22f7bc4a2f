"""What runs add up to, and the page: from runs made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.perf_bench import bench
from conch.errors import ThresholdMissed
from perf.bench.control import figures, report, tables
from tests.unit.control_runs import META, a_run, change


def test_rows_give_medians_ranges_and_costs_relative_to_the_same_seed() -> None:
    """Each cost is divided by the reference's on the same arrivals, not by its mean."""
    runs = [
        a_run("conch", seed=1, instances=3, missed=40),
        a_run("conch", seed=2, instances=3),
        a_run("static-best", seed=1, instances=4),
        a_run("static-best", seed=2, instances=6),
        a_run("clairvoyant", seed=1, instances=2, simulated=True),
    ]
    conch, best, seer = tables.rows(tables.scored(runs, META))
    assert conch.figures["attainment"].median == pytest.approx(0.995)
    assert conch.figures["attainment"].low == pytest.approx(0.99)
    assert conch.figures["cost_instance_s"].median == 120.0
    assert conch.figures["x_static_best"] == tables.Spread(median=0.625, low=0.5, high=0.75)
    assert conch.figures["x_clairvoyant"].median == pytest.approx(1.5)
    assert conch.figures["controller_cpu"].median == pytest.approx(0.01)
    assert best.figures["x_static_best"].low == best.figures["x_static_best"].high == 1.0
    assert seer.rule == "clairvoyant (simulated)"


def test_runs_that_are_not_valid_are_told_and_not_counted() -> None:
    """A client that fell behind says nothing of the rule."""
    spoilt = a_run("conch", seed=2, instances=9, valid=False, invalid_reason="lag")
    data = tables.as_json([a_run("conch"), spoilt], META)
    (row,) = data["traces"]["step"]
    assert row["seeds"] == [1]
    assert data["not_valid"] == [{"rule": "conch", "trace": "step", "seed": 2, "reason": "lag"}]
    assert json.dumps(data, allow_nan=False)


def test_every_timeline_has_the_first_rule() -> None:
    """So that each of the others is seen beside it."""
    rules = [f"r{number}" for number in range(12)]
    found = figures.groups(rules)
    assert all(group[0] == "r0" and len(group) <= figures.LINES_A_FIGURE for group in found)
    assert {rule for group in found for rule in group} == set(rules)


def test_page_holds_every_rule_and_says_what_is_simulated(tmp_path: Path) -> None:
    """Self-contained, with the data beside it."""
    runs = [
        a_run("conch", changes=(change(2, 3, 10.0, 13.0),), missed=100),
        a_run("static-best", instances=4),
        a_run("clairvoyant", simulated=True),
    ]
    written = report.write_report(tmp_path / "report.html", runs, META)
    page = written.html.read_text(encoding="utf-8")
    assert page.count('<span class="tag">simulated</span>') == 2  # once said, once in the row
    assert "97.50 %" in page
    assert 'src="http' not in page
    assert all(picture.stat().st_size > 10_000 for picture in written.pngs)
    with (tmp_path / "timeline-step.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["rule"] for line in lines} == {"conch", "static-best"}  # references are not drawn
    assert float(lines[0]["offered_rps"]) == 100.0
    with (tmp_path / "scores.csv").open() as file:
        conch = next(csv.DictReader(file))
    assert float(conch["x_static_best_median"]) == 0.5


def test_simulated_comparison_ends_with_a_page_and_a_verdict(tmp_path: Path) -> None:
    """The command, from the plan to the threshold."""
    asked = ["control", "--simulate", "--trace", "stationary", "--seeds", "1"]
    asked += ["--duration", "20s", "--warm-up", "5s", "--policies", "conch,static:count=1"]
    asked += ["--side-by-side", "1", "--out", str(tmp_path), "--fail-below", "1", "--load", "0.3"]
    result = CliRunner().invoke(bench, [*asked, "--json"])
    data = json.loads(result.stdout)
    assert [row["rule"] for row in data["traces"]["stationary"]] == [
        "conch (simulated)",
        "static(count=1) (simulated)",
    ]
    assert "Every figure on this page comes from the simulator" in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")
    attained = data["traces"]["stationary"][0]["attainment"]["median"]
    assert isinstance(result.exception, ThresholdMissed) == (attained < 1)
