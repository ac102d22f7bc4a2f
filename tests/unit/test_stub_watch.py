"""When the watch of the stubs heals, and when it must not; processes and Triton are scripted."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import pytest

from conch.errors import ApplyRejected
from serving import heal
from serving.model_config import ModelConfig, parse
from serving.repository import Repository
from serving.runtime import stub_watch, stubs
from serving.runtime.stub_watch import StubWatch
from serving.runtime.stubs import Stub


class World:
    """Two instances of one model, what Triton says of it, and the watch with a clock of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "m").mkdir()
        self.config_text = 'name: "m" backend: "python" instance_group { count: 2 }'
        self.versions = frozenset({1})
        self.now_s = 0.0
        self.pids = {1: "m_0_0", 2: "m_0_1"}
        self.dead: set[int] = set()
        self.healed: list[tuple[bool, bool]] = []
        self.on_heal: list[Any] = []
        self.strangers = False
        monkeypatch.setattr(stubs, "look", self._look)
        monkeypatch.setattr(stubs, "has_strangers", lambda *_: self.strangers)
        monkeypatch.setattr(heal, "heal", self._heal)
        stopping = threading.Event()
        monkeypatch.setattr(stopping, "wait", lambda s: setattr(self, "now_s", self.now_s + s))
        self.watch = StubWatch(
            Repository(root),
            frozenset({"python"}),
            lambda: self,  # type: ignore[arg-type,return-value]
            stopping,
            clock=lambda: self.now_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def index(self) -> dict[str, str]:
        """As Triton says."""
        return {"m": "READY"}

    def ready_versions(self, name: str) -> frozenset[int]:
        """As Triton says."""
        return self.versions

    def config(self, name: str) -> ModelConfig:
        """In force."""
        return parse(self.config_text)

    def _look(self, *_: object) -> dict[int, Stub]:
        return {
            pid: Stub(
                pid=pid,
                model="m" if name else "",
                version=1,
                instance=name,
                started_s=float(pid),
                alive=pid not in self.dead,
            )
            for pid, name in self.pids.items()
        }

    def _heal(self, *_: object, answering: bool, room: bool) -> heal.Way:
        self.healed.append((answering, room))
        newest = max(self.pids)
        self.pids |= {newest + 1: "m_0_0", newest + 2: "m_0_1"}
        for act in self.on_heal:
            act()
        return heal.Way.SECOND_COPY

    def look(self, times: int = 3) -> None:
        """So many looks, each examined to its end."""
        for _ in range(times):
            self.now_s += 0.3
            self.watch.look(77)
            for thread in threading.enumerate():
                if thread.name == "triton-heal":
                    thread.join()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that is well and was looked at."""
    made = World(tmp_path, monkeypatch)
    made.look()
    return made


def test_a_dead_instance_is_healed_once(world: World) -> None:
    """After two looks; the old copy's processes count no more."""
    world.dead.add(2)
    world.look(1)
    assert world.healed == []
    world.look(20)
    assert world.healed == [(True, True)]


def test_with_all_dead_nothing_answers(world: World) -> None:
    """So it may be unloaded if it must."""
    world.dead |= {1, 2}
    world.look()
    assert world.healed == [(False, True)]


def test_one_that_dies_right_after_a_heal_is_healed_too(world: World) -> None:
    """Neither what was seen before, nor a smaller count, is taken for well."""
    world.dead.add(2)
    world.on_heal = [lambda: world.dead.add(max(world.pids))]
    world.look()
    assert len(world.healed) == 1
    world.on_heal = []
    world.look(40)
    assert len(world.healed) == 2
    world.dead.add(max(world.pids))
    world.look(40)
    assert len(world.healed) == 3


def test_what_triton_ended_or_does_not_serve_is_left_alone(world: World) -> None:
    """A smaller count, an unloaded model, another backend."""
    world.config_text = world.config_text.replace("2", "1")
    del world.pids[2]
    world.look(40)
    world.versions = frozenset()
    world.dead.add(1)
    world.look(40)
    world.versions, world.config_text = frozenset({1}), 'backend: "onnxruntime"'
    world.pids[9] = "m_0_0"
    world.dead.add(9)
    world.look(40)
    assert world.healed == []


def test_one_that_died_before_anyone_looked_is_found_by_the_count(world: World) -> None:
    """Its model has no name; those that Triton serves are counted."""
    world.pids = {1: "m_0_0", 2: ""}
    world.dead.add(2)
    world.look(10)
    assert world.healed == [(True, True)]


def test_where_stubs_cannot_be_told_apart_nothing_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One zombie of whoever, and a model that has all its instances, by another path."""
    world = World(tmp_path, monkeypatch)
    world.pids, world.strangers = {2: ""}, True
    world.dead.add(2)
    world.look(10)
    assert world.healed == []
    assert not world.watch.knows("m")
    world.strangers = False  # nothing lives, so nothing of the model does
    world.pids[3] = ""
    world.dead.add(3)
    world.look(10)
    assert world.healed == [(False, True)]


def test_a_count_of_none_after_a_heal_is_not_all_that_there_can_be(world: World) -> None:
    """They were not there yet, or died at once: the next death is healed all the same."""
    world.on_heal = [world.pids.clear]
    world.dead.add(2)
    world.look(30)
    world.on_heal = []
    world.pids, world.dead = {50: "m_0_0", 51: "m_0_1"}, set()
    world.look(10)
    before = len(world.healed)
    world.dead |= {50, 51}
    world.look(200)
    assert len(world.healed) == before + 1


def test_without_memory_there_is_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the whole of a second copy."""
    monkeypatch.setattr(stub_watch, "_has_room", lambda copy, instances: instances < 2)
    world.dead.add(2)
    world.look()
    assert world.healed == [(True, False)]


def test_what_a_heal_left_unloaded_is_loaded_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton says nothing of it any more, and no process is to be seen; still it is not well."""
    tries: list[str] = []

    def refused(*_: object, **__: object) -> heal.Way:
        world.versions, world.pids = frozenset(), {}
        raise heal.LeftUnloaded("no room")

    def load_again(*_: object) -> None:
        tries.append("load")
        if len(tries) < 3:
            raise ApplyRejected("no room yet")
        world.versions, world.pids = frozenset({1}), {8: "m_0_0", 9: "m_0_1"}

    monkeypatch.setattr(heal, "heal", refused)
    monkeypatch.setattr(heal, "load_again", load_again)
    world.dead.add(2)
    world.look(100)
    assert len(tries) == 3
