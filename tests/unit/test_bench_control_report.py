"""What is run, what it adds up to, and the page: from runs made by hand."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cli.perf_bench import bench
from conch.errors import ConfigError, ThresholdMissed
from control import codec
from control.core.types import Decision, Reason, Settings
from control.journal import ActionEntry
from perf.bench.control import campaign, figures, plan, real, report, store, tables
from perf.bench.control.plan import Contender, Item
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.control.tables import Meta

META = Meta(
    title="Controllers compared",
    served="an emulator",
    hardware="2 cores",
    date="today",
    command="conch perf bench control",
    steps_s={"step": (10.0, 30.0)},
)


def settings(instances: int) -> Settings:
    """Settings with this many instances."""
    return Settings(
        instances=instances, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0
    )


def change(before: int, after: int, begun_s: float, ended_s: float, **other: Any) -> ChangeMade:
    """A change of the count."""
    return ChangeMade(
        begun_s=begun_s,
        ended_s=ended_s,
        reason="SCALE_UP_LOAD",
        before=settings(before),
        after=settings(after),
        **{"reload": False, **other},
    )


def a_run(
    rule: str, *, seed: int = 1, instances: int = 2, missed: int = 0, **other: Any
) -> ControlRun:
    """40 s at 100 requests a second, of which the first ``missed`` took a second."""
    intended_s = np.arange(4000) / 100
    latency_s = np.full(4000, 0.05)
    latency_s[:missed] = 1.0
    values: dict[str, Any] = {
        "rule": rule,
        "trace_name": "step",
        "description": "made by hand",
        "seed": seed,
        "simulated": False,
        "slo_s": 0.4,
        "duration_s": 40.0,
        "intended_s": intended_s,
        "latency_s": latency_s,
        "paid": ((-5.0, instances),),
        "busy_fraction": 0.2,
        "controller_cpu_s": 0.4,
    }
    return ControlRun(**{**values, **other})


def test_paid_counts_from_the_start_of_loading_to_the_end_of_removal() -> None:
    """A reload pays for both sets; what was rolled back falls back to what it was."""
    changes = [
        change(1, 3, 10, 13),
        change(3, 2, 20, 22),
        change(2, 4, 30, 35, reload=True),
        change(4, 5, 40, 41, ok=False),
        change(4, 6, 50, math.inf),
    ]
    paid = real.paid_of(1, changes, since_s=-5)
    assert paid == (
        (-5, 1), (10, 3), (13, 3), (20, 3), (22, 2), (30, 6), (35, 4), (40, 5), (41, 4), (50, 6),
    )  # fmt: skip


def action(tick_id: str, result: dict[str, Any] | None, ended_at_s: float | None) -> ActionEntry:
    """An action that began at 1010 s."""
    return ActionEntry(
        model="m", tick_id=tick_id, begun_at_s=1010.0, ended_at_s=ended_at_s, result=result
    )


def tick(tick_id: str) -> Mapping[str, Any]:
    """A line of ``control run --jsonl``."""
    decision = Decision(
        tick_id=tick_id,
        at_s=1009.9,
        reason=Reason.SCALE_UP_LOAD,
        applied=settings(1),
        desired=settings(2),
    )
    return {"decision": codec.plain(decision)}


def test_changes_have_the_journals_times_and_the_decisions_reasons() -> None:
    """One that never ended lasts; one that changed nothing is none; a failed one did not hold."""
    applied = {"outcome": "applied", "kind": "reload"}
    done = real.changes_of(
        [tick("a"), tick("b"), tick("c"), tick("d")],
        [
            action("a", applied, 1013.0),
            action("b", {"outcome": "unchanged", "kind": "none"}, 1013.0),
            action("c", {"outcome": "failed", "error": "no"}, 1014.0),
            action("d", None, None),
        ],
        shift_s=1000.0,
    )
    assert [(c.begun_s, c.ended_s, c.reload, c.ok) for c in done] == [
        (10.0, 13.0, True, True),
        (10.0, 14.0, False, False),
        (10.0, math.inf, False, False),
    ]
    assert (done[0].before.instances, done[0].after.instances) == (1, 2)
    assert done[0].reason == "SCALE_UP_LOAD"


def test_an_action_without_its_tick_is_an_error() -> None:
    """What was changed must have been told."""
    with pytest.raises(ConfigError, match="was not told"):
        real.changes_of([], [action("x", None, None)], shift_s=0.0)


def test_policies_are_named_with_their_options() -> None:
    """Each once, in the order given."""
    found = plan.contenders("conch, static-best,hpa-utilisation:target=0.7,conch")
    assert [c.label for c in found] == ["conch", "static-best", "hpa-utilisation(target=0.7)"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nobody", "not known"),
        ("hpa-utilisation:target=high", "OPTION=NUMBER"),
        ("hpa-utilisation:goal=1", "option goal"),
        ("static-best:count=3", "takes no options"),
        (",", "at least one"),
    ],
)
def test_policies_that_are_wrong_are_told(text: str, says: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError, match=says):
        plan.contenders(text)


def test_the_clairvoyant_is_for_the_simulator_only() -> None:
    """A process beside a server cannot be told the future."""
    with pytest.raises(ConfigError, match="only the simulator"):
        plan.made(
            {"step": 40.0}, plan.contenders("clairvoyant"), (1,), warm_up_s=5, simulated=False
        )


def test_plan_has_every_rule_on_every_trace_and_seed() -> None:
    """Rules alternate, and the expected time is that of all traces."""
    made = plan.made(
        {"step": 40.0, "stationary": 20.0},
        plan.contenders("conch,inferline"),
        (1, 2),
        warm_up_s=5.0,
        simulated=False,
    )
    told = [(i.scenario.trace.name, i.scenario.seed, i.contender.label) for i in made.items]
    assert told[:3] == [("step", 1, "conch"), ("step", 1, "inferline"), ("step", 2, "conch")]
    assert len(told) == 8
    assert made.expected_s() == 4 * (45 + 25) + 8 * plan.AROUND_S
    assert made.expected_s(4) == made.expected_s() / 4


def test_half_the_load_is_half_the_requests_of_the_same_arrivals() -> None:
    """Drawn at random from the seed, and the true rate is halved with it."""

    def scene(load: float) -> Any:
        made = plan.made(
            {"stationary": 60.0},
            plan.contenders("conch"),
            (1,),
            warm_up_s=0.0,
            simulated=True,
            load=load,
        )
        return made.items[0].scenario

    whole, half = scene(1.0), scene(0.5)
    assert half.trace.count == pytest.approx(whole.trace.count / 2, rel=0.05)
    assert set(half.trace.arrival_s) <= set(whole.trace.arrival_s)
    assert half.rate_steps()[0][1] == pytest.approx(whole.rate_steps()[0][1] / 2)


def test_a_file_gives_its_own_first_seconds_as_warm_up(tmp_path: Path) -> None:
    """And one that is too short is refused."""
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s\n" + "\n".join(f"{n / 10:g}" for n in range(400)) + "\n")
    made = plan.made(
        {str(path): None}, plan.contenders("conch"), (1,), warm_up_s=10.0, simulated=True
    )
    scene = made.items[0].scenario
    assert (scene.warm_up_s, round(scene.duration_s)) == (10.0, 30)
    assert scene.rate_steps()[0][1] == pytest.approx(10.0)
    with pytest.raises(ConfigError, match="must leave at least"):
        plan.made({str(path): None}, plan.contenders("conch"), (1,), warm_up_s=35.0, simulated=True)


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


def test_stored_runs_come_back_as_they_were(tmp_path: Path) -> None:
    """With every request, change and number, nan and inf among them."""
    run = a_run(
        "conch",
        changes=(change(1, 2, 3.0, math.inf),),
        expected=((1.0, 0.2),),
        paid=((-5.0, 1), (3.0, 2)),
        controller_cpu_s=math.nan,
    )
    store.save(run, tmp_path, "key")
    found = store.load(tmp_path, "key")
    assert found is not None
    assert math.isnan(found.controller_cpu_s)
    assert replace(found, **dict.fromkeys(("intended_s", "latency_s", "controller_cpu_s"))) == (
        replace(run, **dict.fromkeys(("intended_s", "latency_s", "controller_cpu_s")))
    )
    np.testing.assert_array_equal(found.latency_s, run.latency_s)
    assert store.load(tmp_path, "another") is None


def test_room_is_what_keeps_the_machine_below_the_limit() -> None:
    """At least one run, and never more than the most."""
    assert [campaign.room_for(share) for share in (0.0, 0.01, 0.17, 0.31, 0.9)] == [1, 8, 3, 1, 1]


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


class Quiet:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.stored: list[bool] = []

    def begins(self, item: Item) -> None:
        """Nothing."""

    def progress(self, item: Item, seen: object) -> None:
        """Nothing."""

    def ended(self, item: Item, run: ControlRun | None, *, stored: bool) -> None:
        """Whether it was there already."""
        self.stored.append(stored)

    def note(self, text: str) -> None:
        """Nothing."""


def campaign_of(folder: Path, rules: str, teller: Quiet) -> campaign.Campaign:
    """A campaign of short runs."""
    made = plan.made(
        {"stationary": 12.0}, plan.contenders(rules), (1,), warm_up_s=2.0, simulated=False
    )
    served = real.emulator(made.model) if made.model else None
    return campaign.Campaign(plan=made, served=served, folder=folder, teller=teller, side_by_side=2)


def test_a_second_start_makes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the best static count is searched upwards until it attains."""
    played: list[tuple[str, int]] = []

    def play(served: object, asked: real.Play, **_: object) -> ControlRun:
        played.append((asked.label, asked.instances))
        missed = 0 if asked.rule != "static" or asked.instances > 3 else 400
        return a_run(asked.label, instances=asked.instances, missed=missed)

    monkeypatch.setattr(real, "play", play)
    monkeypatch.setattr(campaign, "first_static", lambda *_: 2)
    first, second = Quiet(), Quiet()
    runs = campaign_of(tmp_path, "static-best", first).make().runs
    assert played == [("static(count=2)", 2), ("static(count=3)", 3), ("static(count=4)", 4)]
    assert runs[0].rule == "static-best"
    assert runs[0].paid == ((-5.0, 4),)
    again = campaign_of(tmp_path, "static-best,conch", second).make().runs
    assert [run.rule for run in again] == ["static-best", "conch"]
    assert [label for label, _ in played[3:]] == ["conch"]
    assert sorted(second.stored) == [False, True]


def test_a_stopped_campaign_stores_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut short is not a result."""
    stop = threading.Event()

    def play(served: object, asked: real.Play, **_: object) -> ControlRun:
        stop.set()
        return a_run(asked.label, valid=False, invalid_reason="stopped")

    monkeypatch.setattr(real, "play", play)
    halted = campaign_of(tmp_path, "conch,inferline", Quiet())
    halted.stop = stop
    halted.make()
    assert not list(tmp_path.glob("*.json"))


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path: Path) -> None:
    """With how long it takes; quick is under 20 minutes, full about two hours."""
    out = tmp_path / "out"
    minutes = {}
    for extent in ("--quick", "--full"):
        asked = ["control", extent, "--dry-run", "--json", "--out", str(out)]
        result = CliRunner().invoke(bench, asked)
        minutes[extent] = json.loads(result.stdout)["expected_s"] / 60
    assert minutes["--quick"] < 20
    assert 120 < minutes["--full"] < 160
    assert not out.exists()


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


def test_contender_of_a_constant_count_begins_with_it() -> None:
    """It is there from the start of the warm-up, not scaled to."""
    made = plan.made({"step": 40.0}, plan.contenders("conch"), (1,), warm_up_s=5, simulated=True)
    scene = made.items[0].scenario
    constant = Contender(rule="static", options={"count": 7.0})
    assert campaign.started(constant, scene).instances == 7
    assert campaign.started(Contender(rule="conch"), scene) is scene
