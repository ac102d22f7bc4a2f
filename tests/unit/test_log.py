"""What is said in the log: not again and again, and nothing that steers a terminal."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path

import pytest
import structlog

from conch import log
from conch.log import Repeated


class _Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.said.append((event, fields))

    error = warning


def test_an_outage_of_an_hour_is_a_few_lines() -> None:
    """At five looks a second; the last line says how long it took."""
    now, lines = [0.0], _Lines()
    outage = Repeated(lines, clock=lambda: now[0])
    said_at = []
    for tick in range(5 * 3600):
        now[0] = tick / 5
        if outage.seen("triton.unreachable", key="m", error="no answer"):
            said_at.append(now[0])
    assert said_at[:6] == [0, 5, 15, 35, 75, 155]
    assert len(lines.said) < 20
    assert all(b - a <= log.LONGEST_PAUSE_S + 1 for a, b in itertools.pairwise(said_at))
    now[0] = 3600.0
    assert outage.over("triton.unreachable", key="m", said="triton.reached")
    assert lines.said[-1] == ("triton.reached", {"times": 18_000, "for_s": 3600.0})


def test_runs_are_told_apart_and_begin_anew() -> None:
    """By event and key; what was never seen is not over."""
    lines = _Lines()
    repeated = Repeated(lines, clock=lambda: 0.0)
    assert repeated.seen("a", key="m")
    assert repeated.seen("a", key="n")
    assert repeated.seen("b", key="m", level="error")
    assert not repeated.seen("a", key="m")
    assert not repeated.over("c", key="m")
    assert repeated.over("a", key="m")
    assert not repeated.over("a", key="m")
    assert repeated.seen("a", key="m")
    assert [event for event, _ in lines.said] == ["a", "a", "b", "a.over", "a"]


@pytest.mark.parametrize("terminal", [True, False])
def test_no_escape_sequence_of_a_value_reaches_the_stream(monkeypatch, terminal: bool) -> None:
    """A failing model's message is quoted in the log."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    before = structlog.get_config()
    log.configure(2)
    try:
        logger = structlog.get_logger()
        logger.warning(
            "model.failed\x1b[2J",
            error="\x1b]0;owned\x07 \x9b31m",
            names=["\x1b[1m"],
            error_of=ValueError("\x1b[5m"),
        )
        try:
            raise ValueError("\x1b[7mraised")
        except ValueError:
            logger.exception("x.failed")
    finally:
        structlog.configure(**before)
    text = stream.getvalue()
    for bad in ("\x1b]0", "\x1b[2J", "\x1b[1m\\", "\x1b[5m", "\x1b[7m", "\x07", "\x9b"):
        assert bad not in text
    assert "owned" in text
    assert "raised" in text


def test_a_log_goes_into_a_file_for_a_while(tmp_path: Path, monkeypatch) -> None:
    """And to stderr again."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    before = structlog.get_config()
    log.configure(0)
    try:
        with log.into(tmp_path / "x.log"):
            structlog.get_logger().warning("inside.said")
        structlog.get_logger().warning("outside.said")
    finally:
        structlog.configure(**before)
    assert "inside.said" in (tmp_path / "x.log").read_text()
    assert "inside.said" not in stream.getvalue()
    assert "outside.said" in stream.getvalue()
