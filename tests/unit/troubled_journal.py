"""A journal as trouble finds it: what writes it, what is said of it, and what is none."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from control.journal.writer import Journal
from tests.unit.story import Story
from tests.unit.test_replay import POLICY, Recorder


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def recorder_of(journal: Journal) -> Recorder:
    """A controller that has just started with it."""
    recorder = Recorder(journal, Story(policy=POLICY))
    recorder.starts()
    return recorder


@contextlib.contextmanager
def held(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another process holds the file."""
    other = sqlite3.connect(path)
    if how == "EXCLUSIVE":
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute(f"BEGIN {how}")
    other.execute("CREATE TABLE IF NOT EXISTS other (id)")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def events(lines: list[dict[str, Any]]) -> list[str]:
    """The names of what was logged."""
    return [line["event"] for line in lines]


def garbage(path: Path) -> None:
    """Write what is no database there."""
    path.write_bytes(b"this is no database, but a long enough text" * 100)
