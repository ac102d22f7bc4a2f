"""What waits to be written into a journal, in order, while the disk or another process refuses it.

A row that another row refers to has a handle from the moment it is wanted; the number that SQLite
gives it is known when it is written. So a change can be begun, and even ended, while the journal
cannot be written at all, and both rows are right when it can.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

log = structlog.get_logger()

_POISON = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError)
"""What SQLite raises for values that it can never take."""

RUN = "INSERT INTO run (begun_at_s, mode, version, tick_s, models) VALUES (?, ?, ?, ?, ?)"
EVENT = "INSERT INTO event (run, model, kind, at_s, tick_id, data) VALUES (?, ?, ?, ?, ?, ?)"
BEGIN = "INSERT INTO action (tick_id, model, begun_at_s, desired) VALUES (?, ?, ?, ?)"
END = "UPDATE action SET ended_at_s = ?2, result = ?3, change = ?4 WHERE id = ?1"
LEARNT = "INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One statement.

    Attributes:
        statement, values: of SQL.
        makes: the handle of the row that it inserts; 0 where nobody will ask for it.
        of: the handle of the row that it belongs to, whose number goes before the values; 0 for
            none.
    """

    statement: str
    values: tuple[Any, ...]
    makes: int = 0
    of: int = 0


@dataclass(slots=True)
class Queue:
    """Rows that wait, and the numbers of those that were written."""

    rows: list[Row] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)
    _handles: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)

    def put(
        self, statement: str, values: tuple[Any, ...], *, of: int = 0, handle: bool = False
    ) -> Row:
        """Another row, at the end."""
        made = self._handles() if handle else 0
        row = Row(statement=statement, values=values, makes=made, of=of)
        self.rows.append(row)
        return row

    def number(self, handle: int) -> int:
        """The number of a row that was written; 0 while it waits."""
        return self._numbers.get(handle, 0)

    def write(self, db: sqlite3.Connection) -> None:
        """Make all of it durable in one transaction, or nothing: then it goes on waiting.

        Raises:
            sqlite3.Error: when that was not possible.
        """
        made: dict[int, int] = {}
        with db:
            for row in self.rows:
                values = row.values
                if row.of:
                    number = made.get(row.of) or self._numbers.get(row.of)
                    if number is None:  # what it belongs to was lost
                        continue
                    values = (number, *values)
                try:
                    written = db.execute(row.statement, values).lastrowid
                except _POISON as error:
                    # No disk will ever take it, and those behind it must not wait for that.
                    log.error("journal.row_refused", error=str(error)[:200])
                    continue
                if row.makes:
                    made[row.makes] = written or 0
        self._numbers.update(made)
        self.rows.clear()

    def drop(self, statement: str) -> list[Row]:
        """Take out the rows of this statement, and give them."""
        gone = [row for row in self.rows if row.statement == statement]
        self.rows = [row for row in self.rows if row.statement != statement]
        return gone

    def cut(self, most: int) -> None:
        """Keep the newest ``most`` rows, and each run."""
        old = self.rows[: max(0, len(self.rows) - most)]
        self.rows = [*(row for row in old if row.statement == RUN), *self.rows[len(old) :]]

    def again(self, rows: Iterable[Row]) -> None:
        """Another file: no number is known any more, and these rows go first."""
        first = list(rows)
        self._numbers.clear()
        self.rows = [*first, *(row for row in self.rows if row not in first)]

    def forget(self, handle: int) -> None:
        """Nothing will belong to this row any more."""
        self._numbers.pop(handle, None)
