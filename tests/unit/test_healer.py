"""When a controller asks a model for dead stubs, and what it does when a heal does not end well."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import psutil
import pytest

from control.act import healer
from control.act.healer import Healer
from serving import heal
from serving.repository import Repository
from serving.runtime import stubs
from serving.runtime.endpoint import Endpoint
from tests.unit.intervals import timed

REMOTE = Endpoint(name="r", host="far", http_port=1, grpc_port=2, metrics_port=3)


class World:
    """A healer whose clock and heals are scripted; nothing is connected to."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.asked = 0
        self.loaded = 0
        self.raises: list[Exception] = []
        monkeypatch.setattr(heal, "heal_by_answers", self._ask)
        monkeypatch.setattr(heal, "load_again", self._load_again)
        self.healer = Healer(
            REMOTE,
            Repository(root),
            lambda: self,  # type: ignore[arg-type,return-value]
            pid=lambda: None,
            clock=lambda: self.now_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def _ask(self, *_: object, **__: object) -> None:
        self.asked += 1
        self._raise()

    def _load_again(self, *_: object) -> None:
        self.loaded += 1
        self._raise()

    def _raise(self) -> None:
        if self.raises:
            raise self.raises.pop(0)

    def looked(self, *, failed: float = 0.0, after_s: float = 400.0) -> None:
        """One look, and what it leads to, to its end."""
        self.now_s += after_s
        self.healer.looked("m", [timed(arrivals=10.0, failed=failed)])
        for thread in threading.enumerate():
            if thread.name == "conch-healer-ask":
                thread.join()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server elsewhere."""
    return World(tmp_path, monkeypatch)


def test_a_model_is_asked_when_requests_fail_and_ever_more_seldom_in_vain(world: World) -> None:
    """After 5 s, 10 s, 20 s."""
    world.looked()
    assert world.asked == 0
    for after_s, asked in ((1.0, 1), (4.9, 1), (0.2, 2), (9.9, 2), (0.2, 3)):
        world.looked(failed=1.0, after_s=after_s)
        assert world.asked == asked


def test_a_model_is_not_asked_where_its_processes_tell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of another model tell nothing of it."""
    watch = SimpleNamespace(knows=lambda model: model == "other")
    monkeypatch.setattr(world.healer, "_watched", watch)
    world.looked(failed=1.0)
    assert world.asked == 1
    watch.knows = lambda model: model == "m"
    world.looked(failed=1.0)
    assert world.asked == 1


def test_a_thread_that_does_not_start_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more threads, for a moment."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            world.looked(failed=1.0)
    world.looked(failed=1.0)
    assert world.asked == 1


def test_what_a_heal_left_unloaded_is_loaded_again(world: World) -> None:
    """Of an unloaded model no request is counted as failed any more."""
    world.raises = [heal.LeftUnloaded("no room"), heal.ApplyRejected("no room yet")]
    world.looked(failed=1.0)
    for loaded in (1, 2, 2):
        world.looked()
        assert world.loaded == loaded


@pytest.mark.parametrize(
    ("names", "has_stubs", "found"),
    [
        (["tritonserver"], False, 1),
        (["ssh"], False, None),
        (["docker-proxy", "tritonserver"], False, 2),
        (["wrapper"], True, 1),
    ],
)
def test_only_a_triton_behind_the_port_is_looked_at_by_its_processes(
    monkeypatch: pytest.MonkeyPatch, names: list[str], has_stubs: bool, found: int | None
) -> None:
    """A tunnel's other end is elsewhere."""
    listening = [
        SimpleNamespace(laddr=SimpleNamespace(port=2), status=psutil.CONN_LISTEN, pid=pid)
        for pid, _ in enumerate(names, start=1)
    ]
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listening)
    monkeypatch.setattr(psutil, "Process", lambda pid: SimpleNamespace(name=lambda: names[pid - 1]))
    monkeypatch.setattr(stubs, "processes", lambda _: [1] if has_stubs else [])
    assert healer.listener(replace(REMOTE, host="127.0.0.1")) == found
