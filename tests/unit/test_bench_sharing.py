"""Several models on one server: loads, contenders, and the ideal server that they are tried on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cli.perf_bench import bench
from conch.errors import ConfigError, LoadError, TritonUnavailable
from control.core.need.base import SHARED_DELAY
from control.policy_file import PolicyFile
from perf.bench.sharing import contenders as ways
from perf.bench.sharing import real, simulated
from perf.bench.sharing.contenders import Contender, contenders, splits
from perf.bench.sharing.loads import Load, moving
from perf.bench.sharing.run import Sharing, by_phase


def _load(ratio: float = 0.8, *, models: int = 2, budget: int = 4, phase_s: float = 30.0) -> Load:
    return moving(models=models, budget=budget, ratio=ratio, phase_s=phase_s, phases=4, seed=1)


def _one(text: str, load: Load) -> Contender:
    [found] = contenders(text, load)
    return found


def test_the_load_is_on_one_model_after_the_other() -> None:
    """What each phase asks for is the ratio of what the right split of the budget carries."""
    load = _load()
    first, second = load.members
    assert (load.heavy, load.light) == (3, 1)
    for phase, (a, b) in enumerate([(3, 1), (1, 3), (3, 1), (1, 3)]):
        assert load.rate_rps(0, phase) == pytest.approx(0.8 * first.carried_rps(a))
        assert load.rate_rps(1, phase) == pytest.approx(0.8 * second.carried_rps(b))
    trace = load.trace(0)
    assert trace.duration_s == load.warm_up_s + load.duration_s
    late_s = trace.arrival_s - load.warm_up_s
    counts = [int(((late_s >= at) & (late_s < at + 30)).sum()) for at in (0, 30)]
    assert counts[0] == pytest.approx(30 * load.rate_rps(0, 0), rel=0.1)
    assert counts[1] == pytest.approx(30 * load.rate_rps(0, 1), rel=0.2)
    assert (_load(models=3, budget=5).heavy, _load(budget=8).heavy) == (3, 6)


def test_attainment_is_by_phase_and_without_the_warm_up() -> None:
    """A request counts in the phase in which it was meant to come."""
    load = replace(_load(phase_s=10.0), warm_up_s=5.0, phases=2)
    at_s = np.array([1.0, 6.0, 7.0, 16.0, 24.9, 25.1])
    good = np.array([False, True, False, True, True, False])
    assert by_phase(load, at_s, good) == ([0.5, 1.0], 0.75, 3, 4)


def test_fixed_stands_for_every_split_that_leaves_each_model_one() -> None:
    """Each once, with those that were named."""
    assert len(splits(2, 8)) == 7
    assert len(splits(3, 5)) == 6
    found = contenders("fixed:3-1,limiter,fixed", _load())
    assert [c.label for c in found] == ["fixed:3-1", "limiter", "fixed:2-2", "fixed:1-3"]
    assert [c.counts for c in found] == [(3, 1), (3, 3), (2, 2), (1, 3)]


def test_contenders_are_what_their_names_say() -> None:
    """The limiter leaves a slot to others; refusing leaves time for a full batch."""
    load = _load()
    limiter, delayed = _one("limiter", load), _one("limiter-delay", load)
    assert (limiter.slots, limiter.control, limiter.delay_s(load.members[0])) == (4, False, 0.0)
    assert delayed.delay_s(load.members[0]) == pytest.approx(0.8 / 8)
    even = _one("even-split-refuse", _load(models=3, budget=5))
    assert even.counts == (2, 2, 1)
    assert even.refuse_after_s(load.members[0]) == pytest.approx(0.9 * 0.8 - 0.192 - 0.002)
    assert (_one("conch", load).slots, _one("conch-slots", load).slots) == (None, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nobody", "not known"),
        ("fixed:5-3", "must split 4 instances among 2"),
        ("fixed:4-0", "at least one each"),
        ("fixed:a-b", "not known"),
        ("limiter-slots", "not known"),
        ("conch-delay", "not known"),
        (" , ", "at least one"),
    ],
)
def test_contenders_that_are_wrong_are_told(text: str, says: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError, match=says) as caught:
        contenders(text, _load())
    assert caught.value.hint


def test_a_budget_that_leaves_nothing_to_move_is_refused() -> None:
    """Two models and two instances."""
    with pytest.raises(ConfigError, match="more than the 2 models"):
        _load(budget=2)


def test_the_policy_is_one_that_a_user_could_write() -> None:
    """A budget where instances are moved, none where slots are shared; refusing is said."""
    load = _load()
    for text, budget, late in (
        ("conch", 4, "wait"),
        ("conch-slots", None, "wait"),
        ("conch-refuse", 4, "refuse"),
    ):
        policy = PolicyFile.model_validate(yaml.safe_load(real.policy_text(_one(text, load), load)))
        assert policy.budget.instances == budget
        assert {model.late for model in policy.models.values()} == {late}


def test_slots_follow_a_load_that_no_split_carries() -> None:
    """At 80 %; an even split that refuses keeps more than one that lets everything wait."""
    load = _load()
    seen = {
        c.label: simulated.play(c, load)
        for c in contenders("limiter,even-split-refuse,fixed", load)
    }
    assert seen["limiter"].attainment > 0.99
    assert seen["even-split-refuse"].attainment > seen["fixed:2-2"].attainment + 0.4
    assert seen["even-split-refuse"].refused > 0.05
    assert max(seen[f"fixed:{a}"].attainment for a in ("3-1", "2-2", "1-3")) < 0.65
    assert seen["fixed:3-1"].starved
    assert not seen["limiter"].starved


@pytest.mark.parametrize(
    ("times", "low", "high"), [(0, 0, 0.3), (0.5, 0, 0.9), (1, 0.97, 1), (2, 0.97, 1)]
)
def test_a_delay_fills_the_batches_that_slots_are_spent_on(
    times: float, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the budget's limit small batches cost what others need: half the delay is too short."""
    load = _load(1.0)
    monkeypatch.setattr(ways, "SHARED_DELAY", times * SHARED_DELAY)
    seen = simulated.play(_one("limiter-delay", load), load)
    assert low <= seen.attainment <= high


def test_who_has_executed_much_lets_others_go_first() -> None:
    """Where that binds, at the budget's limit, and always leaves him the slot that others may not
    have."""
    load = _load(1.0)
    late = simulated.play(_one("limiter-refuse", load), replace(load, head_start=100_000))
    fresh = simulated.play(_one("limiter-refuse", load), load)
    assert late.models["a"] < fresh.models["a"] - 0.03
    assert late.models["b"] > fresh.models["b"] + 0.03
    assert not late.starved


def test_what_is_carried_is_what_the_slots_carry() -> None:
    """However many instances there are: one slot is too few for this load, two are enough."""
    load = _load(0.4)
    limiter = _one("limiter", load)
    one, two = (simulated.play(replace(limiter, slots=slots), load) for slots in (1, 2))
    assert one.attainment < 0.2
    assert two.attainment > 0.99


def test_conch_with_a_budget_moves_instances_on_the_simulator() -> None:
    """With their loading times, within the budget."""
    load = _load(0.8)
    seen = simulated.play(_one("conch", load), load)
    assert seen.changes > 2
    assert seen.attainment > simulated.play(_one("fixed:2-2", load), load).attainment


def test_the_command_says_what_came_and_refuses_what_it_cannot() -> None:
    """A row for each contender and load."""
    arguments = ["sharing", "--simulate", "--phase", "5s", "--contenders"]
    plain = CliRunner().invoke(bench, [*arguments, "limiter,fixed:3-1", "--loads", "0.5,0.8"])
    assert plain.exception is None, plain.exception
    assert len(plain.stdout.splitlines()) == 4
    assert "simulated" in plain.stdout
    shown = CliRunner().invoke(bench, [*arguments, "limiter", "--loads", "0.5", "--json"])
    [row] = json.loads(shown.stdout)["runs"]
    assert (row["contender"], row["simulated"], row["starved"]) == ("limiter", True, False)
    for wrong in (
        ["conch-slots"],
        ["conch-refuse"],
        ["limiter", "--loads", "0"],
        ["limiter", "--loads", "x"],
    ):
        refused = CliRunner().invoke(bench, [*arguments, *wrong])
        assert isinstance(refused.exception, ConfigError), refused.exception


def test_a_run_that_does_not_start_keeps_no_other_from_being_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told, and the command fails at its end."""

    def play(contender: Contender, load: Load) -> Sharing:
        if contender.label == "limiter":
            raise TritonUnavailable("Triton: ended while it started.", hint="See its log.")
        return simulated.play(contender, load)

    monkeypatch.setattr(real, "play", play)
    names = ["--contenders", "limiter,fixed:3-1", "--loads", "0.5", "--phase", "5s"]
    seen = CliRunner().invoke(bench, ["sharing", *names])
    assert isinstance(seen.exception, LoadError)
    assert "1 runs did not finish (limiter at 50%" in str(seen.exception)
    assert "fixed:3-1" in seen.stdout
