"""When a reload pays: the terms one by one, and the decision that asks for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from control.act.actuator import Actuator
from control.action import Action, Outcome
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.need.cached import Reload
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Observation, Settings
from control.journal.writer import Journal
from control.loop import ControlLoop
from control.watch.observe import Observer
from serving.model_config import ReloadKind
from tests.unit.story import a_policy, settings

BUSY = Reload(seconds=2.0, instances=1, rate_rps=100.0, service_s=0.005)


def test_cost_is_the_copy_and_the_misses() -> None:
    """2 s of a copy; 100/s · 2 s · 5 % are 10 misses, each worth the work of 100 requests."""
    assert BUSY.cost_s(a_policy()) == pytest.approx(2.0 + 10 * 100 * 0.005)
    strict = a_policy(slo_target_fraction=0.999)
    assert BUSY.cost_s(strict) == pytest.approx(2.0 + 10 * 1000 * 0.005)


def _reloaded_in(seconds: float, at_s: float = 900.0) -> Applied:
    """A reload that was obeyed."""
    return Applied(at_s=at_s, settings=settings(), reload=True, ok=True, seconds=seconds)


def test_a_reload_takes_as_long_as_the_last_ones() -> None:
    """The median of reloads; without one, what an instance takes to load."""
    policy = a_policy(load_s=7.0)
    assert ControlState().reload_s(policy) == 7.0
    took = (3.0, 90.0, 5.0)
    state = ControlState(changes=tuple(_reloaded_in(seconds) for seconds in took))
    assert state.reload_s(policy) == 5.0


@dataclass
class Looks:
    """An observer that sees calm models of these settings."""

    applied: Settings

    def survey(self, _: object) -> None:
        """Nothing that is shared."""

    def look(self, model: str, **_: object) -> Observation:
        """Nothing but the settings."""
        return Observation(
            at_s=1000.0, tick_id=model, counters=None, statistics=None, applied=self.applied
        )


@dataclass
class Slow:
    """An actuator whose changes last until they are let go."""

    go: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)

    def apply(self, model: str, *_: object, **__: object) -> Action:
        """One change."""
        self.begun.append(model)
        assert self.go.wait(10)
        return Action(
            model=model,
            kind=ReloadKind.RELOAD,
            outcome=Outcome.APPLIED,
            seconds=1.0,
            revision=1,
            diff="",
        )


@dataclass(frozen=True)
class Wants:
    """A rule that always wants the same."""

    wanted: Settings
    reason: Reason
    fresh: bool = False
    name: str = "wants"

    def decide(
        self, state: ControlState, seen: Observation, _: Policy
    ) -> tuple[Decision, ControlState]:
        """That."""
        decision = Decision(
            tick_id=seen.tick_id,
            at_s=seen.at_s,
            reason=self.reason,
            applied=seen.applied,
            desired=self.wanted,
            fresh=self.fresh,
        )
        return decision, state


BATCHING = Wants(settings(batch=16), Reason.REBATCH)
COPY = Wants(settings(2), Reason.SCALE_UP_BACKLOG, fresh=True)


@pytest.mark.parametrize(
    ("first", "second", "at_once"),
    [
        pytest.param(BATCHING, BATCHING, False, id="two reloads"),
        pytest.param(COPY, BATCHING, False, id="a copy is a reload"),
        pytest.param(BATCHING, COPY, True, id="a backlog cannot wait"),
        pytest.param(BATCHING, Wants(settings(2), Reason.SCALE_BY_RULE), True, id="in place"),
        pytest.param(BATCHING, replace(BATCHING, reason=Reason.ROLLBACK), True, id="rollback"),
    ],
)
def test_one_reload_at_a_time_over_all_models(
    tmp_path: Path, first: Wants, second: Wants, at_once: bool
) -> None:
    """The second waits for the first to end, where it can."""
    slow = Slow()
    with Journal(tmp_path / "journal") as journal:
        loop = ControlLoop(
            policies={"a": a_policy(), "b": a_policy()},
            rules={"a": first, "b": second},
            observer=cast(Observer, Looks(settings())),
            actuator=cast(Actuator, slow),
            journal=journal,
            clock=lambda: 1000.0,
        )
        try:
            assert [tick.begun for tick in loop.tick()] == [True, at_once]
            assert [tick.begun for tick in loop.tick()] == [False, False]
        finally:
            slow.go.set()
        loop.settle()
        loop.rules = {"a": Wants(settings(), Reason.HOLD_RULE), "b": second}
        assert [tick.begun for tick in loop.tick()] == [False, True]
        loop.settle()
