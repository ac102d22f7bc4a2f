"""The tables of a journal file, their version, and how an older file is brought up to date.

Version 0 is the unversioned file of the first release: one table of ticks, one of actions. Version
1 has every event of ``control.core.step`` in one sequence, so that it can be replayed.
"""

from __future__ import annotations

import sqlite3

from conch.errors import ConchError

VERSION = 1


class JournalError(ConchError):
    """The journal could not be opened, read or written."""


class JournalLocked(JournalError):
    """Another process holds the journal."""


class JournalUnusable(JournalError):
    """What lies there is no journal that this version can read and write."""


_TABLES = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, begun_at_s REAL NOT NULL, mode TEXT NOT NULL, version TEXT NOT NULL,
    tick_s REAL, models TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    at_s REAL NOT NULL, tick_id TEXT, data BLOB
);
CREATE INDEX IF NOT EXISTS event_kind ON event (model, kind, id);
CREATE INDEX IF NOT EXISTS event_run ON event (run, model, id);
CREATE INDEX IF NOT EXISTS event_tick ON event (tick_id);
CREATE TABLE IF NOT EXISTS learnt (model TEXT PRIMARY KEY, at_s REAL NOT NULL, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS action (
    id INTEGER PRIMARY KEY, tick_id TEXT NOT NULL, model TEXT NOT NULL, begun_at_s REAL NOT NULL,
    desired TEXT NOT NULL, ended_at_s REAL, result TEXT, change TEXT
);
CREATE INDEX IF NOT EXISTS action_model ON action (model, id);
CREATE INDEX IF NOT EXISTS action_tick ON action (tick_id);
"""

_COLUMNS = {
    "run": "id, begun_at_s, mode, version, tick_s, models",
    "event": "id, run, model, kind, at_s, tick_id, data",
    "learnt": "model, at_s, data",
    "action": "id, tick_id, model, begun_at_s, desired, ended_at_s, result, change",
}

# The policies of those ticks were not written down: they can be explained, and not replayed.
_WIDEN_0 = "ALTER TABLE action ADD COLUMN change TEXT;"
_MOVE_0 = """
INSERT INTO run (begun_at_s, mode, version, models)
    SELECT min(at_s), mode, '', '{}' FROM tick GROUP BY mode ORDER BY min(id);
INSERT INTO event (run, model, kind, at_s, tick_id, data)
    SELECT run.id, model, 'looked', at_s, tick_id,
        '{"seen": ' || observation || ', "decision": ' || decision || '}'
    FROM tick JOIN run ON run.mode = tick.mode ORDER BY tick.id;
DROP TABLE tick;
"""


def version_of(db: sqlite3.Connection) -> int:
    """The file's version; ``VERSION`` for an empty one.

    Raises:
        JournalUnusable: for a newer one than this program knows.
    """
    (number,) = db.execute("PRAGMA user_version").fetchone()
    if number > VERSION:
        raise JournalUnusable(
            f"journal: is of format {number}, this Conch reads up to {VERSION}.",
            hint="Update Conch, or move the file away to start a new one.",
        )
    return VERSION if number == 0 and not _has_ticks(db) else int(number)


def is_new(db: sqlite3.Connection) -> bool:
    """Whether nothing is in it yet."""
    return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def require_whole(db: sqlite3.Connection) -> None:
    """Refuse a file without our tables, or that is cut off; a look at a few of its pages.

    Raises:
        sqlite3.Error: when something is missing or damaged.
    """
    for table, columns in _COLUMNS.items():
        keys = [name for _, name, *_, key in db.execute(f"PRAGMA table_info({table})") if key]
        if keys != [columns.partition(",")[0]]:
            raise sqlite3.DatabaseError(f"table {table} is not ours")
        db.execute(f"SELECT {columns} FROM {table} ORDER BY rowid DESC LIMIT 1").fetchone()  # noqa: S608


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables, or move the rows of an older file into them: all of it, or nothing.

    Raises:
        JournalError: for a newer file.
        sqlite3.Error: when the disk refuses.
    """
    widen, move = (_WIDEN_0, _MOVE_0) if version_of(db) == 0 else ("", "")
    try:
        # executescript commits what is open before it begins: the transaction is in the script.
        db.executescript(
            f"BEGIN IMMEDIATE; {widen} {_TABLES} {move} PRAGMA user_version = {VERSION}; COMMIT;"
        )
    except sqlite3.Error:
        if db.in_transaction:
            db.rollback()
        raise


def _has_ticks(db: sqlite3.Connection) -> bool:
    """Whether it is a file of version 0."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tick'"
    return db.execute(query).fetchone() is not None
