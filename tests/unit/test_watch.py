"""The thread that keeps a Triton running outlives whatever goes wrong in it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from conch.errors import TritonUnavailable
from serving.runtime import vitals, watch
from serving.runtime.vitals import Vitals

RAISED = [
    OSError(12, "Cannot allocate memory"),
    FileNotFoundError(2, "No such file"),
    BlockingIOError(11, "Resource temporarily unavailable"),
    OSError(24, "Too many open files"),
    TritonUnavailable("it does not start"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    ValueError("anything"),
]


class Stopping(threading.Event):
    """Ends nothing by waiting; keeps how long was waited for, and moves a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float] = []
        self.now_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        """Moves the clock."""
        self.waited_s.append(timeout or 0.0)
        self.now_s += timeout or 0.0
        return self.is_set()

    def clock(self) -> float:
        """Now."""
        return self.now_s


class Server:
    """Dies as often as said, after living so long each time."""

    def __init__(self, stopping: Stopping, lives_s: list[float]) -> None:
        self._stopping, self._lives_s = stopping, lives_s
        self._dies_s = self._next()
        self.failing: list[BaseException] = []
        self.looks: list[BaseException] = []
        self.launched = 0
        self.looked = 0

    def _next(self) -> float:
        return self._stopping.now_s + self._lives_s.pop(0) if self._lives_s else float("inf")

    def ended(self, timeout_s: float) -> int | None:
        """Whether its time is over."""
        self._stopping.now_s += timeout_s
        if self._dies_s == float("inf") and not self.looks:
            self._stopping.set()
        return -9 if self._stopping.now_s >= self._dies_s else None

    def look(self) -> None:
        """Raises what is left to raise."""
        self.looked += 1
        if self.looks:
            raise self.looks.pop(0)

    def relaunch(self) -> None:
        """The same."""
        if self.failing:
            raise self.failing.pop(0)
        self.launched += 1
        self._dies_s = self._next()


def kept(lives_s: list[float], setup: Callable[[Server], None]) -> tuple[Server, Stopping]:
    """The server after the thread's body has run to its end."""
    stopping = Stopping()
    server = Server(stopping, lives_s)
    setup(server)
    watch.keep(server, stopping, clock=stopping.clock)
    return server, stopping


def test_no_error_of_a_restart_ends_the_watch() -> None:
    """Each is logged, and it is tried again; the pauses grow."""
    with capture_logs() as logs:
        server, stopping = kept([1.0], lambda s: s.failing.extend(RAISED))
    assert server.launched == 1
    assert len([e for e in logs if e["event"] == "triton.restart_failed"]) == len(RAISED)
    assert stopping.waited_s[:3] == [0.5, 1.0, 2.0]
    assert max(stopping.waited_s) == 30.0


def test_no_error_of_a_look_ends_the_watch() -> None:
    """Nor keeps it from restarting."""
    server, _ = kept([5.0], lambda s: s.looks.extend(RAISED))
    assert server.looked >= len(RAISED)
    assert server.launched == 1


@pytest.mark.parametrize(("lived_s", "pauses"), [(11.0, [0.5, 0.5, 0.5]), (3.0, [0.5, 1.0, 2.0])])
def test_backoff_starts_anew_after_a_healthy_while(lived_s: float, pauses: list[float]) -> None:
    """Ten seconds with its models answering are no crash loop."""
    server, stopping = kept([lived_s] * 3, lambda _: None)
    assert server.launched == 3
    assert stopping.waited_s == pauses


def test_a_stopped_process_is_said_and_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, after a while, and again when it is stopped again."""
    now_s, stopped, sent = [0.0], {7}, []
    monkeypatch.setattr(vitals, "_is_stopped", lambda pid: pid in stopped)
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    seen = Vitals(lambda: True, clock=lambda: now_s[0])
    with capture_logs() as logs:
        for now_s[0] in (0.0, 5.0, 9.9):
            seen.look([6, 7])
        assert sent == []
        now_s[0] = 10.0
        seen.look([6, 7])
    assert sent == [(7, signal.SIGCONT)]
    assert [e["event"] for e in logs] == ["triton.stopped_by_signal", "triton.continued"]


def test_a_triton_that_does_not_answer_is_said_once() -> None:
    """And when it does again."""
    now_s, live = [0.0], [False]
    seen = Vitals(lambda: live[0], clock=lambda: now_s[0])
    with capture_logs() as logs:
        for now_s[0] in (10.0, 20.0, 31.0, 40.0, 200.0):
            seen.look([])
        live[0] = True
        for now_s[0] in (210.0, 220.0):
            seen.look([])
    assert [e["event"] for e in logs] == ["triton.not_live", "triton.answers_again"]
