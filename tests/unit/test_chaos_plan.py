"""The plan of a chaos run is a pure function of its seed, and every fault comes in it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from conch.errors import ConfigError
from tests.chaos import invariants, report
from tests.chaos.fault import Cost, Step
from tests.chaos.faults import KINDS
from tests.chaos.plan import plan
from tests.chaos.run import Broken, Outcome
from tests.chaos.world.load import Answer
from tests.chaos.world.models import SLEEPY

HOUR_S = 3600.0


def test_the_same_seed_gives_the_same_plan() -> None:
    """Order, times and parameters; another seed gives another one."""
    assert plan(7, HOUR_S) == plan(7, HOUR_S)
    assert plan(7, HOUR_S) != plan(8, HOUR_S)


def test_a_longer_plan_begins_as_the_shorter_one() -> None:
    """So that a step has the same number and parameters whatever the length."""
    short, long = plan(7, 300.0), plan(7, HOUR_S)
    assert 0 < len(short) < len(long)
    assert long[: len(short)] == short


def test_every_fault_comes_before_any_comes_twice() -> None:
    """A round of the deck holds each of them once."""
    steps = plan(3, 2 * HOUR_S)
    first = [step.fault.name for step in steps[: len(KINDS)]]
    assert sorted(first) == sorted(KINDS)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert all(a.at_s < b.at_s for a, b in pairwise(steps))


def test_only_restricts_the_faults_and_refuses_unknown_ones() -> None:
    """A misspelt name must not run everything."""
    assert {step.fault.name for step in plan(1, 600.0, only=["kill-stub"])} == {"kill-stub"}
    with pytest.raises(ConfigError, match="kill-stab"):
        plan(1, 600.0, only=["kill-stab"])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_fault_says_what_it_is_and_cannot_be_changed(name: str) -> None:
    """A name, a word of help for --list, and frozen parameters."""
    fault = KINDS[name]()
    assert fault.name == name
    assert fault.__doc__
    assert fault.lasts_s >= 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        fault.lasts_s = 1.0  # type: ignore[misc]


def _answer(due_s: float, error: str = "", *, model: str = SLEEPY) -> Answer:
    return Answer(model=model, due_s=due_s, done_s=due_s, error=error)


@pytest.mark.parametrize(
    ("error", "costs", "allowed"),
    [
        ("UNAVAILABLE: Socket closed", Cost.NOTHING, False),
        ("UNAVAILABLE: Socket closed", Cost.SERVER, True),
        ("NOT_FOUND: Request for unknown model: 'sleepy' is not found", Cost.SERVER, True),
        ("INTERNAL: Stub process 'sleepy_0_1' is not healthy.", Cost.STUB, True),
        ("INTERNAL: Stub process 'sleepy_0_1' is not healthy.", Cost.WAIT, False),
        ("DEADLINE_EXCEEDED: Deadline Exceeded", Cost.WAIT, True),
        ("INVALID_ARGUMENT: 9 rows do not fit", Cost.SERVER | Cost.STUB | Cost.WAIT, False),
    ],
)
def test_a_fault_may_lose_only_what_it_costs(error: str, costs: Cost, allowed: bool) -> None:
    """A wrong answer is never the price of a dead process."""
    assert invariants._allowed(_answer(1.0, error), costs) is allowed


def test_an_outage_is_a_run_of_requests_without_a_good_answer() -> None:
    """One good answer of the same model ends it; another model's does not."""
    answers = [_answer(float(at_s), "UNAVAILABLE") for at_s in (1, 2, 4)]
    answers.insert(2, _answer(3.0, model="other"))
    assert invariants._outage_s(answers, SLEEPY) == 3.0
    assert invariants._outage_s([*answers[:2], _answer(3.0), answers[-1]], SLEEPY) == 1.0


def test_a_failure_tells_how_to_replay_it() -> None:
    """Seed, step, fault, evidence, command; the table fits 80 columns."""
    step = Step(number=4, at_s=9.0, fault=KINDS["kill-stub"]())
    broken = Broken(invariant="requests", said="3 lost", evidence=("control: oh",))
    outcome = Outcome(step=step, checked=8, lost=3, broken=(broken,))
    text = report.failure(outcome, seed=7, minutes=5, only="")
    for part in ("seed 7", "step 4", "KillStub", "3 lost", "control: oh", "--seed 7", "--steps 4"):
        assert part in text
    assert max(len(line) for line in report.table([outcome]).splitlines()) <= 80
