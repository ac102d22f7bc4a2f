"""What was seen, decided and done, in SQLite: enough to explain and to replay every decision.

WAL with ``synchronous=FULL``: what was recorded survives kill -9 and a power cut. An action is
recorded as begun before the first write and as ended after it, so an unfinished one is visible.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conch.errors import ConchError
from control import codec
from control.actuator import Action, Outcome
from control.core.state import Applied
from control.core.types import Decision, Observation
from serving.model_config import ReloadKind

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tick (
    id INTEGER PRIMARY KEY, tick_id TEXT NOT NULL, model TEXT NOT NULL, at_s REAL NOT NULL,
    mode TEXT NOT NULL, observation TEXT NOT NULL, decision TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS tick_model ON tick (model, id);
CREATE TABLE IF NOT EXISTS action (
    id INTEGER PRIMARY KEY, tick_id TEXT NOT NULL, model TEXT NOT NULL, begun_at_s REAL NOT NULL,
    desired TEXT NOT NULL, ended_at_s REAL, result TEXT
);
CREATE INDEX IF NOT EXISTS action_model ON action (model, id);
"""


class JournalError(ConchError):
    """The journal could not be opened, read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tick of one model."""

    model: str
    mode: str
    observation: Observation
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEntry:
    """One action; ``ended_at_s`` and ``result`` are None for one that never ended."""

    model: str
    tick_id: str
    begun_at_s: float
    ended_at_s: float | None
    result: dict[str, Any] | None


class Journal:
    """The journal file of one repository; use it as a context manager."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open it, creating it unless ``read_only``.

        Raises:
            JournalError: when it cannot be opened, or is not there to be read.
        """
        if read_only and not path.is_file():
            raise JournalError(
                f"journal: {path} is not there.",
                hint="Start the loop first: `conch control run POLICY`.",
            )
        try:
            if read_only:
                self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
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
        self._db.close()

    def record(self, model: str, seen: Observation, decision: Decision, *, mode: str) -> None:
        """One tick."""
        self._execute(
            "INSERT INTO tick (tick_id, model, at_s, mode, observation, decision)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                seen.tick_id,
                model,
                seen.at_s,
                mode,
                json.dumps(codec.plain(seen)),
                json.dumps(codec.plain(decision)),
            ),
        )

    def begin(self, model: str, decision: Decision, *, at_s: float) -> int:
        """Record that an action begins; gives its id for ``end``."""
        return self._execute(
            "INSERT INTO action (tick_id, model, begun_at_s, desired) VALUES (?, ?, ?, ?)",
            (decision.tick_id, model, at_s, json.dumps(codec.plain(decision.desired))),
        )

    def end(self, action_id: int, result: Action | ConchError, *, at_s: float) -> None:
        """Record how an action ended."""
        data = (
            codec.action(result)
            if isinstance(result, Action)
            else {"outcome": "failed", "error": result.message}
        )
        self._execute(
            "UPDATE action SET ended_at_s = ?, result = ? WHERE id = ?",
            (at_s, json.dumps(data), action_id),
        )

    def prune(self, *, before_s: float) -> None:
        """Forget the ticks from before ``before_s`` that led to no action."""
        self._execute(
            "DELETE FROM tick WHERE at_s < ? AND tick_id NOT IN (SELECT tick_id FROM action)",
            (before_s,),
        )

    def entries(self, model: str, *, last: int | None = None) -> Iterator[Entry]:
        """The ticks of a model, oldest first; the newest ``last`` of them when given."""
        rows = self._db.execute(
            "SELECT mode, observation, decision FROM (SELECT * FROM tick WHERE model = ?"
            " ORDER BY id DESC LIMIT ?) ORDER BY id",
            (model, -1 if last is None else last),
        )
        for mode, observation, decision in rows:
            yield Entry(
                model=model,
                mode=mode,
                observation=codec.observation(json.loads(observation)),
                decision=codec.decision(json.loads(decision)),
            )

    def actions(self, model: str | None = None) -> list[ActionEntry]:
        """Actions of a model, or of all, oldest first."""
        rows = self._db.execute(
            "SELECT model, tick_id, begun_at_s, ended_at_s, result FROM action"
            " WHERE ? IS NULL OR model = ? ORDER BY id",
            (model, model),
        )
        return [
            ActionEntry(
                model=name,
                tick_id=tick_id,
                begun_at_s=begun,
                ended_at_s=ended,
                result=json.loads(result) if result else None,
            )
            for name, tick_id, begun, ended, result in rows
        ]

    def tried(self, model: str, *, since_s: float) -> tuple[Applied, ...]:
        """What ended since then, as the core remembers it, oldest first."""
        rows = self._db.execute(
            "SELECT ended_at_s, desired, result FROM action"
            " WHERE model = ? AND ended_at_s > ? ORDER BY id",
            (model, since_s),
        )
        found = []
        for ended_at_s, desired, text in rows:
            wanted, result = codec.settings(json.loads(desired)), json.loads(text)
            if wanted is not None and result["outcome"] != Outcome.UNCHANGED.value:
                found.append(
                    Applied(
                        at_s=ended_at_s,
                        settings=wanted,
                        reload=result.get("kind") == ReloadKind.RELOAD.value,
                        ok=result["outcome"] == Outcome.APPLIED.value,
                    )
                )
        return tuple(found)

    def models(self) -> list[str]:
        """Every model with a tick."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT model FROM tick ORDER BY 1")]

    def _execute(self, statement: str, values: tuple[Any, ...]) -> int:
        """One durable write; gives the row's id."""
        try:
            with self._db:
                return self._db.execute(statement, values).lastrowid or 0
        except sqlite3.Error as error:
            raise JournalError(
                f"journal: {error}.", hint="Free some space; the loop holds until it can record."
            ) from error
