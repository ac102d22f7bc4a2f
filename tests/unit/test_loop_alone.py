"""One model's trouble is its own: errors of any kind, at the start, in a tick and at an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from control import endings, life
from control.act.probation import Probation, TakenBack
from control.action import Edited, ServerGone
from control.core.memory.state import ControlState
from control.core.reasons import Reason
from control.core.types import Decision, Observation, Settings
from control.journal.writer import Journal
from control.lease import Fenced
from control.loop import ControlLoop
from tests.unit.story import a_policy, settings

NOW_S = 5000.0


@dataclass
class Eyes:
    """Sees what it is given for each model, or raises it."""

    seen: dict[str, Observation | Exception] = field(default_factory=dict)
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def survey(self, _: object) -> None:
        """Nothing is shared."""

    def look(self, model: str, *, acting: bool, **_: object) -> Observation:
        """One look."""
        self.asked.append((model, acting))
        found = self.seen.get(model, _nothing())
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Hands:
    """Does what it is given for each model."""

    work: dict[str, Callable[[], Any]] = field(default_factory=dict)
    reconciled: list[str] = field(default_factory=list)

    def reconcile(self, model: str) -> bool:
        """At the start, and after something was taken back."""
        self.reconciled.append(model)
        self.work.get(f"reconcile {model}", lambda: None)()
        return True

    def apply(self, model: str, *_: object, **__: object) -> Any:
        """One change."""
        return self.work[model]()


class Watch:
    """A probation that has taken back what it is given."""

    def __init__(self, *back: TakenBack) -> None:
        self.back, self.calls = list(back), list[str]()

    def taken_back(self) -> list[TakenBack]:
        """Once."""
        found, self.back = self.back, []
        return found

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda model, *_: self.calls.append(f"{name} {model}")


def _nothing() -> Observation:
    return Observation(at_s=NOW_S, tick_id="t", counters=None, statistics=None, applied=None)


def _sees(applied: Settings, **more: Any) -> Observation:
    return replace(_nothing(), applied=applied, **more)


@pytest.fixture
def parts(tmp_path: Path) -> Any:
    """(loop, its eyes, its hands) over two models."""
    eyes, hands = Eyes(), Hands()
    with Journal(tmp_path / "journal") as journal:
        yield (
            ControlLoop(
                policies={"bad": a_policy(), "good": a_policy()},
                observer=cast(Any, eyes),
                actuator=cast(Any, hands),
                journal=journal,
                clock=lambda: NOW_S,
            ),
            eyes,
            hands,
        )


def _boom() -> None:
    raise KeyError("boom")


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError(), PermissionError(13, "no"), OSError()]
)
def test_any_error_of_a_look_costs_that_look_only(parts: Any, error: Exception) -> None:
    """The other model is decided; the next tick looks at both again."""
    loop, eyes, _ = parts
    eyes.seen["bad"] = error
    assert [tick.model for tick in loop.tick()] == ["good"]
    del eyes.seen["bad"]
    assert [tick.model for tick in loop.tick()] == ["bad", "good"]


def test_a_fence_is_nobody_s_own(parts: Any) -> None:
    """Another controller has taken over: this one ends."""
    loop, eyes, _ = parts
    eyes.seen["bad"] = Fenced("over")
    with pytest.raises(Fenced):
        list(loop.tick())


def test_any_error_of_a_start_leaves_the_others_started(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconciling, and each thing that the journal remembers."""
    loop, _, hands = parts
    hands.work["reconcile bad"] = _boom
    monkeypatch.setattr(loop.journal, "tried", lambda *_, **__: _boom())
    monkeypatch.setattr(loop.journal, "learnt", lambda *_, **__: _boom())
    life.start(loop)
    assert hands.reconciled == ["bad", "good"]
    assert set(loop._states) == {"bad", "good"}


def test_a_start_that_hangs_in_a_load_ends_by_stop(parts: Any) -> None:
    """The server does not answer for minutes; whoever asked for the end does not wait for it."""
    loop, _, hands = parts
    stop, never = threading.Event(), threading.Event()
    hands.work["reconcile bad"] = never.wait
    stop.set()
    life.start(loop, stop=stop)
    assert set(loop._states) == {"bad", "good"}
    never.set()


def _begun(loop: ControlLoop) -> Decision:
    """A change of the bad one, 1 → 2."""
    decision = Decision(
        tick_id="t",
        at_s=NOW_S,
        reason=Reason.SCALE_UP_LOAD,
        applied=settings(1),
        desired=settings(2),
    )
    loop.begin("bad", decision)
    return decision


def _raises(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "remembers"),
    [
        (KeyError("boom"), {"ok": False, "undo": False, "settings": settings(2)}),
        (Edited("edited"), None),
        (ServerGone("gone"), {"ok": True, "undo": True, "settings": settings(1)}),
    ],
)
def test_an_end_by_any_error_is_taken_in(
    parts: Any, error: Exception, remembers: dict[str, Any] | None
) -> None:
    """A fault of ours counts as refused, an edit as nothing, a server that died is blamed on it."""
    loop, eyes, hands = parts
    hands.work["bad"] = _raises(error)
    _begun(loop)
    loop.settle()
    state: ControlState = loop._states["bad"]
    assert state.in_flight is None
    if remembers is None:
        assert state.changes == ()
    else:
        change = state.changes[-1]
        assert {name: getattr(change, name) for name in remembers} == remembers
    eyes.seen["bad"] = _sees(settings(1))
    list(loop.tick())
    until_s = time.monotonic() + 10
    while isinstance(error, ServerGone) and not hands.reconciled and time.monotonic() < until_s:
        list(loop.tick())
    assert hands.reconciled == (["bad"] if isinstance(error, ServerGone) else [])


def test_a_change_without_a_thread_to_do_it_has_failed(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has none left; it is not in flight for ever."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop, _, _ = parts
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        _begun(loop)
    loop.settle()
    state: ControlState = loop._states["bad"]
    assert state.in_flight is None
    assert not state.changes[-1].ok


def test_a_change_that_hangs_is_given_up_at_the_end(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays an action without an end; the thread is nobody's to wait for."""
    loop, _, hands = parts
    monkeypatch.setattr(endings, "SETTLE_S", 0.05)
    never = threading.Event()
    hands.work["bad"] = never.wait
    _begun(loop)
    loop.settle()
    assert [action.ended_at_s for action in loop.journal.actions()] == [None]
    daemons = [t.daemon for t in threading.enumerate() if t.name == "conch-actuator"]
    assert daemons == [True]
    never.set()


def test_what_was_taken_back_is_blocked_and_loaded(parts: Any) -> None:
    """The core knows, the next controller too, and nothing is judged until it is in force."""
    loop, eyes, hands = parts
    back = TakenBack(model="bad", settings=settings(1), bad=settings(2), why="it died")
    unknown = TakenBack(model="elsewhere", settings=None, bad=None, why="it died")
    loop.probation = loop._endings.probation = cast(Probation, Watch(back, unknown))
    eyes.seen["bad"] = _sees(settings(2))
    list(loop.tick())
    change = loop._states["bad"].changes[-1]
    assert (change.settings, change.before, change.undo, change.ok) == (
        settings(1),
        settings(2),
        True,
        True,
    )
    assert loop.journal.tried("bad", since_s=0.0) == (change,)
    until_s = time.monotonic() + 10
    while "bad" in loop._mender and time.monotonic() < until_s:
        list(loop.tick())
    assert hands.reconciled == ["bad"]
    list(loop.tick())
    assert eyes.asked[0] == ("bad", True)  # not compared while it is not in force
    assert eyes.asked[-2] == ("bad", False)


def test_an_edit_holds_whatever_the_rule_says(parts: Any) -> None:
    """No change is begun for a model whose file is a person's."""
    loop, eyes, _ = parts

    class Always:
        """Wants one more."""

        name = "always"

        def decide(self, state: ControlState, seen: Observation, _: object) -> Any:
            """As ever."""
            assert seen.applied is not None
            more = replace(seen.applied, instances=seen.applied.instances + 1)
            decision = Decision(
                tick_id="t",
                at_s=NOW_S,
                reason=Reason.SCALE_BY_RULE,
                applied=seen.applied,
                desired=more,
            )
            return decision, state

    loop.rules = {"bad": cast(Any, Always())}
    eyes.seen["bad"] = _sees(settings(1), edited=True)
    assert [tick.begun for tick in loop.tick()] == [False, False]


def test_a_disk_that_refuses_is_said_once_and_when_it_is_over(parts: Any) -> None:
    """Each tick tries it again, and nothing is lost."""
    loop, _, _ = parts
    db = loop.journal._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    with structlog.testing.capture_logs() as said:
        db.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(60):
            list(loop.tick())
        db.execute("PRAGMA max_page_count = 100000")
        list(loop.tick())
        list(loop.tick())
    lines = [line for line in said if line["event"].startswith("journal.")]
    assert [line["event"] for line in lines] == ["journal.not_written", "journal.written"]
    assert lines[1]["times"] > 1
    assert len(list(loop.journal.entries("good"))) == 62
