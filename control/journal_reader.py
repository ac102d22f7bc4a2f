"""Read a journal: ticks for people, events for a replay, changes for a controller that starts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from control import checkpoint, codec
from control.actuator import Outcome
from control.core.state import Applied, ControlState
from control.core.step import Event
from control.core.types import Decision, Observation, Policy
from control.journal_schema import JournalError
from serving.model_config import ReloadKind

OPENED, CHECKPOINT, GAP = "opened", "checkpoint", "gap"
"""The journal's own marks between the events of the core."""

_NEWEST = """
SELECT event.id, run.id, event.model, run.mode, event.data
FROM event JOIN run ON run.id = event.run
WHERE event.id IN (
    SELECT id FROM event WHERE model = ? AND kind = 'looked' AND (? IS NULL OR at_s <= ?)
    ORDER BY id DESC LIMIT ?
) ORDER BY event.id
"""
_BY_TICK = """
SELECT event.id, run.id, event.model, run.mode, event.data
FROM event JOIN run ON run.id = event.run
WHERE event.tick_id >= ? AND event.tick_id < ? AND event.model = ? AND event.kind = 'looked' LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tick of one model."""

    id: int
    run: int
    model: str
    mode: str
    observation: Observation
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a controller.

    Attributes:
        id: counts up.
        begun_at_s: when it began.
        mode: active or advisory.
        version: of Conch; empty for what an earlier format left.
        tick_s: between two looks; None where nobody said.
        policies: by model.
        rules: (name, options) by model.
    """

    id: int
    begun_at_s: float
    mode: str
    version: str
    tick_s: float | None
    policies: Mapping[str, Policy]
    rules: Mapping[str, tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event of a run.

    Attributes:
        id: its place in the sequence.
        event: of the core; None for the journal's own marks.
        decision: that answered it, where it was a look.
        begins: a mark that the run begins here, with an empty memory.
        state: of a checkpoint. A mark with neither is a gap: nothing is known from there on.
    """

    id: int
    event: Event | None
    decision: Decision | None = None
    begins: bool = False
    state: ControlState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEntry:
    """One action; ``ended_at_s`` and ``result`` are None for one that never ended."""

    model: str
    tick_id: str
    begun_at_s: float
    ended_at_s: float | None
    result: dict[str, Any] | None


class JournalReader:
    """What can be asked of a journal."""

    _db: sqlite3.Connection

    def entries(
        self, model: str, *, last: int | None = None, until_s: float | None = None
    ) -> Iterator[Entry]:
        """The ticks of a model, oldest first; the newest ``last`` of them (until ``until_s``)."""
        rows = self._db.execute(
            _NEWEST,
            (model, until_s, until_s, -1 if last is None else last),
        )
        for row in rows:
            yield _entry(row)

    def entry(self, model: str, tick_id: str) -> Entry | None:
        """The tick of a model with this id (or the beginning of one); None when there is none."""
        row = self._db.execute(
            _BY_TICK,
            (tick_id, tick_id + "\U0010ffff", model),
        ).fetchone()
        return _entry(row) if row else None

    def last_change(self, model: str, *, until_s: float | None = None) -> Entry | None:
        """The newest tick that led to an action."""
        row = self._db.execute(
            "SELECT tick_id FROM action WHERE model = ? AND (? IS NULL OR begun_at_s <= ?)"
            " ORDER BY id DESC LIMIT 1",
            (model, until_s, until_s),
        ).fetchone()
        return self.entry(model, row[0]) if row else None

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        rows = self._db.execute(
            "SELECT id, begun_at_s, mode, version, tick_s, models FROM run ORDER BY id"
        )
        return [
            Run(
                id=number,
                begun_at_s=begun,
                mode=mode,
                version=version,
                tick_s=tick_s,
                policies={m: codec.policy(by["policy"]) for m, by in models.items()},
                rules={m: (by["rule"], by["options"]) for m, by in models.items()},
            )
            for number, begun, mode, version, tick_s, text in rows
            for models in [json.loads(text)]
        ]

    def records(self, run: int, model: str) -> Iterator[Record]:
        """The events of a model in a run, in their order."""
        rows = self._db.execute(
            "SELECT id, kind, data FROM event WHERE run = ? AND model = ? ORDER BY id", (run, model)
        )
        for number, kind, stored in rows:
            yield _record(number, kind, stored)

    def learnt(self, model: str) -> dict[str, Any]:
        """What ``save_learnt`` kept; empty when there is nothing."""
        row = self._db.execute("SELECT data FROM learnt WHERE model = ?", (model,)).fetchone()
        return dict(json.loads(row[0])) if row else {}

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
            "SELECT ended_at_s, desired, result, change FROM action"
            " WHERE model = ? AND ended_at_s > ? ORDER BY id",
            (model, since_s),
        )
        found = []
        for ended_at_s, desired, text, kept in rows:
            change = codec.applied(json.loads(kept)) if kept else None
            change = change or _change(json.loads(desired), json.loads(text), ended_at_s)
            if change is not None:
                found.append(change)
        return tuple(found)

    def models(self) -> list[str]:
        """Every model with a tick, sorted."""
        # A step of the index for each name, where DISTINCT would read millions of rows.
        rows = self._db.execute(
            "WITH RECURSIVE name(it) AS (SELECT min(model) FROM event UNION ALL"
            "  SELECT (SELECT min(model) FROM event WHERE model > it) FROM name"
            "  WHERE it IS NOT NULL)"
            " SELECT it FROM name WHERE it IS NOT NULL"
            "  AND EXISTS (SELECT 1 FROM event WHERE model = it AND kind = 'looked')"
        )
        return [name for (name,) in rows]


def _entry(row: tuple[int, int, str, str, bytes | str]) -> Entry:
    """A row of ``_NEWEST`` or ``_BY_TICK``."""
    number, run, model, mode, stored = row
    try:
        data = codec.unpacked(stored)
        return Entry(
            id=number,
            run=run,
            model=model,
            mode=mode,
            observation=codec.observation(data["seen"]),
            decision=codec.decision(data["decision"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise _unreadable(number, error) from error


def _record(number: int, kind: str, stored: bytes | str | None) -> Record:
    """A row of the sequence."""
    if kind == OPENED:
        return Record(id=number, event=None, begins=True)
    if kind == GAP or stored is None:
        return Record(id=number, event=None)
    try:
        data = codec.unpacked(stored)
        if kind == CHECKPOINT:
            return Record(id=number, event=None, state=checkpoint.unpack(data))
        decided = codec.decision(data["decision"]) if kind == "looked" else None
        return Record(id=number, event=codec.event(kind, data), decision=decided)
    except (KeyError, ValueError, TypeError) as error:
        raise _unreadable(number, error) from error


def _unreadable(number: int, error: Exception) -> JournalError:
    """A row that another version wrote, or that is damaged."""
    return JournalError(
        f"journal: event {number} cannot be read ({type(error).__name__}: {error}).",
        hint="It was written by another version of Conch: read it with that one.",
    )


def _change(
    desired: dict[str, Any] | None, result: dict[str, Any], ended_at_s: float
) -> Applied | None:
    """A change as an older format has it; None for one that changed nothing."""
    wanted = codec.settings(desired)
    if wanted is None or result["outcome"] == Outcome.UNCHANGED.value:
        return None
    return Applied(
        at_s=ended_at_s,
        settings=wanted,
        reload=result.get("kind") == ReloadKind.RELOAD.value,
        ok=result["outcome"] == Outcome.APPLIED.value,
    )
