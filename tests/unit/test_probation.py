"""Changes that are not proven, with a server of a few lines: what settles them, what takes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from conch.errors import RepositoryError, TritonUnavailable
from control.act.knobs import settings_of
from control.act.probation import BUSY_S, SETTLED_S, SILENT_S, Probation
from control.core.types import Observation
from serving import model_config, pending
from serving.client import InferenceFailed, TritonClient
from serving.metrics import ModelCounters
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.statistics import ModelStatistics
from tests.unproven import recorded

OLD = """name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
NEW = OLD.replace("count: 1", "count: 2")
LONG_AGO = "2026-01-01T00:00:00+00:00"


@dataclass
class Server:
    """It serves a config, and answers or not."""

    served: ModelConfig
    is_live: bool = True
    fails: bool = False
    slow: bool = False

    def live(self) -> bool:
        """As it is told."""
        return self.is_live

    def config(self, _: str) -> ModelConfig:
        """What is served."""
        if not self.is_live:
            raise TritonUnavailable("gone")
        return self.served

    def infer(self, *_: Any, **__: Any) -> None:
        """Answer, or not."""
        if self.fails:
            raise InferenceFailed("broken")
        if self.slow or not self.is_live:
            raise TritonUnavailable("late")


@dataclass
class World:
    """A repository after a change, its server, and the watch over it."""

    repository: Repository
    server: Server
    watch: Probation
    now_s: float = 0.0

    def passes(self, seconds: float) -> None:
        """Time passes, with a poll each quarter of a second."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.25
            self.watch.poll()

    def seen(self, success: float, loaded: int) -> Observation:
        """A look with these totals."""
        return Observation(
            at_s=self.now_s,
            tick_id="t",
            counters=replace(COUNTERS, success=success),
            statistics=ModelStatistics(success_count=loaded),
            applied=None,
        )


COUNTERS = ModelCounters(success=0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One instance became two."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(OLD)
    repository = Repository(tmp_path)
    revision = repository.write_text("m", NEW, reason="SCALE_UP_LOAD", tick_id="t")
    recorded(repository, "m", revision)
    server = Server(served=model_config.parse(NEW))
    made = World(repository, server, cast(Any, None))
    made.watch = Probation(repository, cast(TritonClient, server), clock=lambda: made.now_s)
    made.watch._prober.single(model_config.parse(NEW))  # it answered before
    made.watch.begins("m")
    made.watch.ended("m")
    return made


def test_a_change_settles_once_it_was_served_for_a_while(world: World) -> None:
    """And not before; then its record is gone and nothing is taken back."""
    world.passes(SETTLED_S - 1)
    assert world.watch.unproven() == ["m"]
    world.passes(2)
    assert world.watch.unproven() == []
    assert pending.read(world.repository, "m") is None
    world.server.is_live = False
    world.passes(60)
    assert world.watch.taken_back() == []
    assert world.repository.config_text("m") == NEW


def test_a_server_that_falls_silent_points_at_the_change(world: World) -> None:
    """The previous bytes are back on disk at once; what to block is told once."""
    world.passes(3)
    world.server.is_live = False
    world.passes(SILENT_S)
    assert world.repository.config_text("m") == NEW
    world.passes(0.5)
    assert world.repository.config_text("m") == OLD
    (back,) = world.watch.taken_back()
    assert back.settings == settings_of(model_config.parse(OLD))
    assert back.bad == settings_of(model_config.parse(NEW))
    assert "not answered" in back.why
    assert world.watch.taken_back() == []
    assert pending.read(world.repository, "m") is None


@pytest.mark.parametrize("status", [psutil.STATUS_SLEEPING, psutil.STATUS_STOPPED])
def test_a_local_server_that_runs_may_be_silent_for_longer(world: World, status: str) -> None:
    """A full machine answers late; a process that was stopped does not answer at all."""

    class Process:
        """Of a local server."""

        def is_running(self) -> bool:
            """It does."""
            return True

        def status(self) -> str:
            """As the kernel says."""
            return status

    world.watch._process = cast(Any, Process())
    world.server.is_live = False
    world.passes(SILENT_S + 1)
    stopped = status == psutil.STATUS_STOPPED
    assert (world.repository.config_text("m") == OLD) is stopped
    world.passes(BUSY_S)
    assert world.repository.config_text("m") == OLD


def test_a_short_silence_is_none(world: World) -> None:
    """Twice a second and a half, with an answer in between."""
    for _ in range(2):
        world.server.is_live = False
        world.passes(1.5)
        world.server.is_live = True
        world.passes(1.0)
    assert world.watch.unproven() == ["m"]
    assert world.repository.config_text("m") == NEW


@pytest.mark.parametrize(
    ("looks", "restarted"),
    [
        ([(100, 10), (120, 30), (5, 5)], True),
        ([(100, 10), (0, 30)], False),  # a page that lies
        ([(100, 10), (120, 0)], False),  # a reload by hand
        ([(100, 10), (100, 10), (130, 40)], False),
    ],
)
def test_a_new_server_counts_anew_in_both(
    world: World, looks: list[tuple[float, int]], restarted: bool
) -> None:
    """Counters alone may lie, statistics alone begin anew with each load."""
    for success, loaded in looks:
        world.watch.looked("m", world.seen(success, loaded))
    assert (world.repository.config_text("m") == OLD) is restarted
    assert bool(world.watch.taken_back()) is restarted


def test_a_model_that_no_longer_answers_is_taken_back(world: World) -> None:
    """At the end of the time; one that is only slow is waited for, and settles."""
    world.server.slow = True
    world.passes(SETTLED_S + 5)
    assert world.watch.unproven() == ["m"]
    world.server.slow, world.server.fails = False, True
    world.passes(1)
    assert world.repository.config_text("m") == OLD
    assert world.watch.taken_back()[0].why == "the model no longer answers"


def test_an_edit_since_is_left_alone(world: World) -> None:
    """The server dies; the file is a person's by then."""
    path = world.repository.config_path("m")
    path.write_text(NEW + "# mine\n")
    world.server.is_live = False
    world.passes(5)
    assert path.read_text() == NEW + "# mine\n"
    assert world.watch.taken_back() == []
    assert world.watch.unproven() == []


def test_what_serve_took_back_is_noticed(world: World) -> None:
    """By the record; it is told like our own."""
    record = pending.read(world.repository, "m")
    assert record is not None
    assert pending.revert(world.repository, record, why="it died 3 times")
    world.passes(0.5)
    assert [back.why for back in world.watch.taken_back()] == ["it died 3 times"]


@pytest.mark.parametrize("event", ["begins", "ended"])
def test_what_serve_took_back_beside_a_change_is_noticed(world: World, event: str) -> None:
    """While nobody polls it: the record is no longer there afterwards to tell."""
    record = pending.read(world.repository, "m")
    assert record is not None
    world.watch._watched.clear()
    assert pending.revert(world.repository, record, why="it died 3 times")
    getattr(world.watch, event)("m")
    assert [back.why for back in world.watch.taken_back()] == ["it died 3 times"]
    assert pending.read(world.repository, "m") is None
    assert world.watch.unproven() == []


def test_a_change_that_began_meanwhile_keeps_its_record(world: World) -> None:
    """The watch is about to settle the one before, or to take it back, by an older look."""
    one = world.watch._watched["m"]
    again = world.repository.write_text("m", NEW + "# 2\n", reason="REBATCH", tick_id="t2")
    later = recorded(world.repository, "m", again)
    world.watch.ended("m")
    world.now_s += SETTLED_S
    world.watch._judge(one)
    world.watch._take_back(one.record, "it died")
    assert pending.read(world.repository, "m") == later
    assert world.watch.unproven() == ["m"]
    assert world.watch.taken_back() == []


def test_a_change_settles_later_where_somebody_is_at_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the model is theirs; the watch over the others does not wait for it."""

    def busy(*_: Any) -> bool:
        raise RepositoryError("another process has been changing it")

    with monkeypatch.context() as patch:
        patch.setattr(pending, "settle_this", busy)
        world.passes(SETTLED_S + 1)
    assert world.watch.unproven() == ["m"]
    world.passes(0.25)
    assert world.watch.unproven() == []


def _next(world: World, *, asked: bool = True) -> Probation:
    """The watch of the next controller, which has an epoch of its own."""
    (world.repository.state / pending.EPOCH).write_text("8")
    later = Probation(world.repository, cast(TritonClient, world.server), clock=lambda: world.now_s)
    if asked:
        later._prober.single(model_config.parse(NEW))
    later.adopt("m")
    return later


@pytest.mark.parametrize(("answered", "back"), [("always", True), ("never", False), ("", False)])
def test_the_next_controller_knows_what_the_model_answered_before(
    world: World, answered: str, back: bool
) -> None:
    """By the record: to it, a model that the change broke has never answered."""
    record = pending.read(world.repository, "m")
    assert record is not None
    pending.write(world.repository, replace(record, answered=answered))
    world.server.fails = True
    world.watch = _next(world, asked=False)
    world.watch._prober.single(model_config.parse(NEW))  # as reconciling does
    world.passes(SETTLED_S + 1)
    assert (world.repository.config_text("m") == OLD) is back


def test_the_next_controller_takes_back_what_was_never_loaded_whenever(world: World) -> None:
    """No time proves it; what is served by now is known to be loaded."""
    record = pending.read(world.repository, "m")
    assert record is not None
    pending.write(world.repository, replace(record, at=LONG_AGO))
    assert _next(world).unproven() == ["m"]
    served = pending.read(world.repository, "m")
    assert served is not None
    assert served.loaded
    pending.write(world.repository, record)
    world.server.served = model_config.parse(OLD)
    assert [back.model for back in _next(world).taken_back()] == ["m"]
    assert world.repository.config_text("m") == OLD


def test_the_next_controller_watches_on(world: World) -> None:
    """Under its own epoch, so that serve may still take it back; and it can, too."""
    world.watch = _next(world)
    record = pending.read(world.repository, "m")
    assert record is not None
    assert record.epoch == "8"
    assert world.watch.unproven() == ["m"]
    world.server.is_live = False
    world.passes(5)
    assert world.repository.config_text("m") == OLD


def test_the_next_controller_takes_back_what_is_not_in_force(world: World) -> None:
    """The last one died between write and load."""
    world.server.served = model_config.parse(OLD)
    assert _next(world).unproven() == []
    assert world.repository.config_text("m") == OLD


@pytest.mark.parametrize("what", ["old", "edited", "damaged"])
def test_the_next_controller_forgets_a_record_that_says_nothing(world: World, what: str) -> None:
    """One of long ago, of another file, or of no meaning."""
    record = pending.read(world.repository, "m")
    assert record is not None
    if what == "old":
        pending.write(world.repository, replace(record, at=LONG_AGO, loaded=True))
    elif what == "edited":
        world.repository.config_path("m").write_text(NEW + "#")
    else:
        (world.repository.state / "pending" / "m.json").write_text("{")
    text = world.repository.config_text("m")
    assert _next(world).unproven() == []
    assert pending.every(world.repository) == []
    assert world.repository.config_text("m") == text


def test_an_error_of_a_poll_does_not_end_the_watch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on; a record on a full disk is one such error."""
    polls: list[int] = []

    def poll() -> None:
        polls.append(1)
        if len(polls) == 3:
            world.watch._stop.set()
        raise OSError("disk")

    monkeypatch.setattr("control.act.probation.POLL_S", 0.0)
    monkeypatch.setattr(Probation, "poll", lambda _: poll())
    world.watch._run()
    assert len(polls) == 3
