"""The journal: locked by somebody, removed, and not one any more."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

from tests.chaos.fault import Fault
from tests.chaos.world.models import SLEEPY
from tests.chaos.world.world import World

LEAST_TICKS = 10
"""Of the 48 that a tick of 250 ms has in 12 s: waiting 5 s for the lock leaves two or three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLocked(Fault):
    """Another process holds a write lock on it while the load jumps."""

    name: ClassVar[str] = "journal-locked"
    lasts_s: float = 12.0

    def inject(self, world: World) -> None:
        """Lock it, and raise the load."""
        world.calm()
        where = f"file:{world.journal}?mode=rw"
        db = sqlite3.connect(where, timeout=5.0, isolation_level=None, uri=True)
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            world.note(f"  journal not locked: {error}")
        world.kept["db"], world.kept["since_s"] = db, time.time()
        world.rise()

    def repair(self, world: World) -> None:
        """Let go."""
        world.kept["until_s"] = time.time()
        world.kept["db"].close()
        world.load.free()

    def verify(self, world: World) -> Iterator[str]:
        """The ticks went on."""
        after = world.ticks_since(world.kept["until_s"])
        count = (world.ticks_since(world.kept["since_s"]) - after) // 3
        if count < LEAST_TICKS:
            yield f"{count} ticks in {self.lasts_s:.0f} s while the journal was locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRemoved(Fault):
    """Its files are removed while the controller runs."""

    name: ClassVar[str] = "journal-removed"

    def inject(self, world: World) -> None:
        """Remove it, with what is beside it."""
        _remove(world)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalGarbage(Fault):
    """A controller finds garbage where the journal was: it is put aside, and control starts."""

    name: ClassVar[str] = "journal-garbage"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """End the controller, write garbage, start the next."""
        world.end_controller()
        _remove(world)
        world.journal.write_bytes(b"no database " * 500)
        world.start_controller()

    def verify(self, world: World) -> Iterator[str]:
        """It runs; if not, a person moves the file away."""
        if not world.controls():
            yield "no controller starts on a journal of garbage"
            _remove(world)
            world.ensure_controller()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntDamaged(Fault):
    """The rows of what was learnt are damaged: that costs the rows, and nothing else."""

    name: ClassVar[str] = "learnt-damaged"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """End the controller, damage, start the next."""
        world.end_controller()
        with closing(sqlite3.connect(world.journal)) as db, db:
            db.execute("INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)", (SLEEPY, 0.0, '{"a": '))
        world.start_controller()

    def verify(self, world: World) -> Iterator[str]:
        """It runs; if not, a person removes the row."""
        if not world.controls():
            yield "no controller starts on one damaged row"
            with closing(sqlite3.connect(world.journal)) as db, db:
                db.execute("DELETE FROM learnt")
            world.ensure_controller()


def _remove(world: World) -> None:
    """The journal and its companions."""
    for end in ("", "-wal", "-shm"):
        world.journal.with_name(world.journal.name + end).unlink(missing_ok=True)


FAULTS = (JournalLocked, JournalRemoved, JournalGarbage, LearntDamaged)
