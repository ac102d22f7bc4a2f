"""Keep the file of a journal open, whatever becomes of it, and bring what waits into it.

Nothing here waits long: who writes is a loop that must look again.
"""

from __future__ import annotations

import contextlib
import enum
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from conch.log import Repeated
from control.journal import file
from control.journal.file import Place
from control.journal.queue import Queue, Row
from control.journal.schema import JournalError, JournalLocked, JournalUnusable

log = structlog.get_logger()

PATIENCE_S = 0.05
"""A write waits so long for another process; the next tick is the next try."""
START_S, END_S = 1.0, 2.0
"""The first and the last one may wait longer."""
CHECK_S = 2.0
"""Pages are looked through so long when a controller starts: some 0.5 GB."""
_MOST_FILES = 5
"""So often a file is given up in one life; more, and something else is wrong than the file."""
MOST_KEPT = 10_000
"""Events of a journal in memory: nobody will read more of them."""


class OnTrouble(enum.Enum):
    """What to do with a file that is no journal, or that may not be written."""

    RAISE = "raise"
    BEGIN_ANEW = "begin anew"
    """Put it aside; for the one controller that may write."""
    IN_MEMORY = "in memory"
    """Leave it alone; for a loop that changes nothing."""


class Store:
    """A journal's file, or what stands for it; and the rows that wait for it."""

    def __init__(
        self, path: Path, on_trouble: OnTrouble, *, first: Callable[[], Iterable[Row]]
    ) -> None:
        """Open it, creating it.

        Args:
            path: where.
            on_trouble: what to do where it is no journal, or may not be written.
            first: what goes first into another file than this life began with.

        Raises:
            JournalError: when it cannot be had; one that another process holds is opened later,
                unless trouble is to ``RAISE``.
        """
        self.queue = Queue()
        self.db = file.in_memory()
        self._path = path
        self._trouble = on_trouble
        self._first = first
        self._place: Place | None = None
        self._wanted = True
        self._held = False
        self._files = 0
        self._said = Repeated(log)
        try:
            anew = on_trouble is OnTrouble.BEGIN_ANEW
            self._open(wait_s=START_S, check_s=CHECK_S if anew else 0.0)
        except JournalLocked as error:
            if on_trouble is OnTrouble.RAISE:
                raise
            self._wait_for_it(error)

    @property
    def in_memory(self) -> bool:
        """Whether the file was given up, so that nothing of what is written stays."""
        return not self._wanted

    def flush(self, *, wait_s: float = PATIENCE_S) -> bool:
        """Make durable what waits, in one transaction; gives whether nothing waits any more.

        While another process holds the file longer than ``wait_s``, it goes on waiting.

        Raises:
            JournalError: when the disk refuses; it goes on waiting then, too.
        """
        if not self.queue.rows:
            return True
        if self._held and wait_s <= PATIENCE_S:
            wait_s = 0.0  # it was waited for already
        try:
            self._look(wait_s)
            try:
                self._write(wait_s)
            except JournalUnusable as error:
                self._replace(error)
                self._write(wait_s)
        except JournalLocked as error:
            self._wait_for_it(error)
            return False
        self._held = False
        self._said.over("journal.locked", said="journal.free", path=str(self._path))
        return True

    def close(self) -> None:
        """Write what waits, as far as it goes, and close the file."""
        try:
            self.flush(wait_s=END_S)
        except JournalError as failed:
            log.error("journal.not_written", error=failed.message)
        if self.queue.rows:
            log.error("journal.not_written", rows=len(self.queue.rows))
        self.db.close()

    def execute(self, statement: str, values: tuple[Any, ...] | dict[str, Any]) -> None:
        """One durable write after all that waits; none while another process holds the file."""
        if not self.flush():
            return
        try:
            with self.db:
                self.db.execute(statement, values)
        except file.REFUSED as error:
            if not file.is_locked(error):
                raise file.said(self._path, error) from error

    def _write(self, wait_s: float) -> None:
        """The rows that wait, into what is open."""
        if self._wanted and self._place is None:
            raise JournalLocked(f"journal {self._path}: another process holds it.")
        try:
            self.db.execute(f"PRAGMA busy_timeout = {wait_s * 1e3:.0f}")
            self.queue.write(self.db)
            if not self._wanted:  # nobody will read them: only what is of use now is kept
                with self.db:
                    self.db.execute(
                        "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?",
                        (MOST_KEPT,),
                    )
        except file.REFUSED as error:
            raise file.said(self._path, error) from error

    def _look(self, wait_s: float) -> None:
        """See that what is open is what lies there; else open what does."""
        if not self._wanted:
            return
        if self._place is None:
            self._open(wait_s=wait_s)
        elif change := self._place.changed():
            log.error("journal.lost", path=str(self._path), because=f"it was {change}")
            mixed, cut = self._place.is_mixed(), self._place.is_cut()
            self._give_up()
            if cut or (mixed and self._trouble is OnTrouble.IN_MEMORY):
                why = f"journal {self._path}: was {change} while it was open."
                self._replace(JournalUnusable(why, hint="Move it away."))
                return
            if mixed:
                file.put_aside(self._path, only_sides=True)
            self._open(wait_s=wait_s)

    def _open(self, *, wait_s: float, check_s: float = 0.0) -> None:
        """Open the file; what is none is dealt with as was said.

        Raises:
            JournalLocked: when another process holds it.
            JournalError: when it cannot be had.
        """
        try:
            opened = file.open_to_write(self._path, wait_s=wait_s, check_s=check_s)
        except JournalLocked:
            raise
        except JournalError as error:
            self._replace(error)
            return
        self.db.close()
        self.db, self._place = opened, Place(path=self._path)

    def _replace(self, error: JournalError) -> None:
        """Go on without the file as it is: with a new one, or with none."""
        self._give_up()
        if self._trouble is OnTrouble.IN_MEMORY:
            log.warning("journal.in_memory", error=error.message)
            self._wanted = False
            return
        unusable = isinstance(error, JournalUnusable)
        if self._trouble is OnTrouble.RAISE or not unusable or self._files >= _MOST_FILES:
            raise error
        self._files += 1
        aside = file.put_aside(self._path)
        log.error("journal.put_aside", error=error.message, now=str(aside))
        self.db.close()
        self.db = file.open_to_write(self._path, wait_s=PATIENCE_S)
        self._place = Place(path=self._path)

    def _give_up(self) -> None:
        """Close what is open. In the next file this run, and what it has begun, come first."""
        if self._place is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self.db.close()
        self.db, self._place = file.in_memory(), None
        self.queue.again(self._first())

    def _wait_for_it(self, error: JournalLocked) -> None:
        """Say, now and then, that another process holds the file."""
        self._held = True
        self._said.seen("journal.locked", level="error", error=error.message)
