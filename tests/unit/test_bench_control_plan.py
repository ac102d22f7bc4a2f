"""What is run: rules, traces and seeds, and where each run begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.perf_bench import bench
from conch.errors import ConfigError
from perf.bench.control import campaign, plan
from perf.bench.control.plan import Contender


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


def test_contender_of_a_constant_count_begins_with_it() -> None:
    """It is there from the start of the warm-up, not scaled to."""
    made = plan.made({"step": 40.0}, plan.contenders("conch"), (1,), warm_up_s=5, simulated=True)
    scene = made.items[0].scenario
    constant = Contender(rule="static", options={"count": 7.0})
    assert campaign.started(constant, scene, made.policy).instances == 7
    most = campaign.started(Contender(rule="static-max"), scene, made.policy)
    assert most.instances == made.policy.max_instances
    assert campaign.started(Contender(rule="conch"), scene, made.policy) is scene
