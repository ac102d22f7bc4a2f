"""What was seen, decided and done, in SQLite: enough to explain and to replay every decision.

Theory of operation. Every event of ``control.core.step`` goes into one sequence, in the order in
which the core took it in, and each run says by which policies and rules it decided. The events of a
tick are written together at its end; ``begin`` writes what waits, and its own record, before
anything is changed. WAL with ``synchronous=FULL``: what was written survives kill -9 and a power
cut. An action is recorded as begun before the first write and as ended after it, so an unfinished
one is visible.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

import conch
from conch.errors import ConchError
from control import checkpoint, codec, journal_schema
from control.actuator import Action
from control.core.policies.rule import Rule
from control.core.state import Applied, ControlState
from control.core.step import Event, Looked
from control.core.types import Decision, Observation, Policy
from control.journal_reader import (
    CHECKPOINT,
    GAP,
    OPENED,
    ActionEntry,
    Entry,
    JournalReader,
    Record,
    Run,
)
from control.journal_schema import JournalError

__all__ = ["ActionEntry", "Entry", "Journal", "JournalError", "Record", "Run"]

log = structlog.get_logger()

MOST_WAITING = 10_000
"""Events that wait for a disk that refuses them; beyond, they are lost and a gap is recorded."""
_NO_POLICIES: Mapping[str, Policy] = {}


class Journal(JournalReader):
    """The journal file of one repository; use it as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open it, creating it unless ``read_only``; an older format is brought up to date.

        Raises:
            JournalError: when it cannot be opened, is of a newer format, or is not there to be
                read.
        """
        if read_only and not path.is_file():
            raise JournalError(
                f"journal: {path} is not there.",
                hint="Start the loop first: `conch control run POLICY`.",
            )
        self._run: int | None = None
        self._waiting: list[tuple[Any, ...]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if read_only:
                self._db = _connect(path, read_only=True)
                if journal_schema.version_of(self._db) == journal_schema.VERSION:
                    return
                self._db.close()
            self._db = _connect(path, read_only=False)
            journal_schema.version_of(self._db)  # a newer file is left as it is
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            journal_schema.bring_up_to_date(self._db)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"journal {path}: {error}.", hint="Move the file away, or mend its permissions."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        except JournalError as failed:
            log.error("journal.not_written", error=failed.message)
        self._db.close()

    def start_run(
        self,
        *,
        at_s: float,
        mode: str,
        policies: Mapping[str, Policy],
        rules: Mapping[str, Rule],
        tick_s: float | None = None,
    ) -> int:
        """A run begins: who decides, and by what; gives its number.

        Every model's memory is empty from here on, until ``Started`` fills it.
        """
        models = {name: _by(rules[name], policy) for name, policy in policies.items()}
        self.flush()
        self._run = self._execute(
            "INSERT INTO run (begun_at_s, mode, version, tick_s, models) VALUES (?, ?, ?, ?, ?)",
            (at_s, mode, conch.__version__, tick_s, json.dumps(models, default=str)),
        )
        for name in policies:
            self._wait(name, OPENED, at_s, None, None)
        self.flush()
        return self._run

    def append(
        self, model: str, event: Event, decision: Decision | None = None, *, at_s: float
    ) -> None:
        """One event that the core took in, and the decision that answered a look.

        It waits in memory for the end of the tick (``flush``) or the next ``begin``.
        """
        if isinstance(event, Looked) and decision is not None:
            content = codec.look(event.seen, decision)
            self._wait(model, "looked", event.seen.at_s, event.seen.tick_id, content)
        else:
            self._wait(model, codec.kind_of(event), at_s, None, codec.text(event))

    def checkpoint(self, model: str, state: ControlState, *, at_s: float) -> None:
        """The whole memory of a model, so that what lies before can be forgotten."""
        try:
            content = json.dumps(checkpoint.pack(state))
        except TypeError as error:  # without it nothing is forgotten but what would be anyway
            log.warning("checkpoint.not_written", model=model, error=str(error))
            return
        self._wait(model, CHECKPOINT, at_s, None, content)

    def flush(self) -> None:
        """Make durable what waits, in one transaction.

        Raises:
            JournalError: when the disk refuses; it goes on waiting then.
        """
        if not self._waiting:
            return
        try:
            with self._db:
                self._db.executemany(
                    "INSERT INTO event (run, model, kind, at_s, tick_id, data)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    self._waiting,
                )
        except sqlite3.Error as error:
            raise _not_written(error) from error
        self._waiting.clear()

    def record(self, model: str, seen: Observation, decision: Decision, *, mode: str) -> None:
        """One tick, durable at once; begins a run without policies where none has begun."""
        if self._run is None:
            self.start_run(at_s=seen.at_s, mode=mode, policies=_NO_POLICIES, rules={})
        self.append(model, Looked(seen=seen), decision, at_s=seen.at_s)
        self.flush()

    def begin(self, model: str, decision: Decision, *, at_s: float) -> int:
        """Record that an action begins; gives its id for ``end``. Durable, with all before it."""
        self.flush()
        return self._execute(
            "INSERT INTO action (tick_id, model, begun_at_s, desired) VALUES (?, ?, ?, ?)",
            (decision.tick_id, model, at_s, codec.text(decision.desired)),
        )

    def end(
        self,
        action_id: int,
        result: Action | ConchError,
        *,
        at_s: float,
        change: Applied | None = None,
    ) -> None:
        """Record how an action ended, and the change as the core remembers it."""
        data = (
            codec.action(result)
            if isinstance(result, Action)
            else {"outcome": "failed", "error": result.message}
        )
        self._execute(
            "UPDATE action SET ended_at_s = ?, result = ?, change = ? WHERE id = ?",
            (at_s, json.dumps(data), codec.text(change) if change else None, action_id),
        )

    def save_learnt(self, learnt: Mapping[str, Mapping[str, Any]], *, at_s: float) -> None:
        """What was learnt, in its saved form by model, for the next controller."""
        rows = [(model, at_s, json.dumps(value)) for model, value in learnt.items()]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise _not_written(error) from error

    def prune(self, *, before_s: float) -> None:
        """Forget the events from before ``before_s``, but for the looks that led to an action.

        Of a run that goes on, all since its newest checkpoint before then stays: it is replayed
        from there.
        """
        self.flush()
        self._execute(
            "DELETE FROM event WHERE at_s < :before AND id < coalesce("
            " (SELECT max(id) FROM event AS mark WHERE mark.run = event.run"
            "  AND mark.model = event.model AND mark.kind = :checkpoint AND mark.at_s < :before),"
            " id + 1)"
            " AND (tick_id IS NULL OR tick_id NOT IN (SELECT tick_id FROM action))",
            {"before": before_s, "checkpoint": CHECKPOINT},
        )

    def _wait(
        self, model: str, kind: str, at_s: float, tick_id: str | None, content: str | None
    ) -> None:
        """Put an event to those that wait."""
        if self._run is None:
            self.start_run(at_s=at_s, mode="active", policies=_NO_POLICIES, rules={})
        if len(self._waiting) >= MOST_WAITING:
            names = sorted({row[1] for row in self._waiting})
            log.error("journal.gap", events=len(self._waiting), models=names)
            self._waiting = [(self._run, name, GAP, at_s, None, None) for name in names]
        stored = codec.packed(content) if content is not None else None
        self._waiting.append((self._run, model, kind, at_s, tick_id, stored))

    def _execute(self, statement: str, values: tuple[Any, ...] | dict[str, Any]) -> int:
        """One durable write; gives the row's id."""
        try:
            with self._db:
                return self._db.execute(statement, values).lastrowid or 0
        except sqlite3.Error as error:
            raise _not_written(error) from error


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """The file, opened."""
    if read_only:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
    return sqlite3.connect(path, timeout=5.0)


def _by(rule: Rule, policy: Policy) -> dict[str, Any]:
    """By what a model is decided, as JSON types."""
    options: dict[str, Any] = {}
    if dataclasses.is_dataclass(rule):
        options = {
            f.name: codec.plain(getattr(rule, f.name))
            for f in dataclasses.fields(rule)
            if f.name != "name"
        }
    return {"rule": rule.name, "options": options, "policy": json.loads(codec.text(policy))}


def _not_written(error: sqlite3.Error) -> JournalError:
    """A write that failed."""
    return JournalError(
        f"journal: {error}.", hint="Free some space; the loop holds until it can record."
    )
