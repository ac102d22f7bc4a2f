"""Read a journal: ticks for people, events for a replay, changes for a controller that starts.

A damaged row costs that row and a line of the log; damaged pages are a ``JournalError``.
"""

from __future__ import annotations

import abc
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from control.action import Outcome
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.step import Event, Started
from control.core.types import Decision, Observation
from control.journal import checkpoint, codec
from control.journal.schema import JournalError
from serving.model_config import ReloadKind

log = structlog.get_logger()
T = TypeVar("T")

OPENED, CHECKPOINT, GAP = "opened", "checkpoint", "gap"
"""The journal's own marks between the events of the core."""

_MOST_DAMAGED = 100
"""So many changes are looked through for one that can be read."""

# CROSS keeps SQLite to this order: the index of the events first.
_LOOKS = """
SELECT event.id, run.id, event.model, run.mode, event.data
FROM event CROSS JOIN run ON run.id = event.run
WHERE event.model = ? AND event.kind = 'looked' AND (? IS NULL OR event.at_s <= ?)
ORDER BY event.id
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


class JournalReader(abc.ABC):
    """What can be asked of a journal."""

    @property
    @abc.abstractmethod
    def _db(self) -> sqlite3.Connection:
        """The open file."""

    def entries(
        self, model: str, *, last: int | None = None, until_s: float | None = None
    ) -> Iterator[Entry]:
        """The ticks of a model, oldest first; the newest ``last`` of them (until ``until_s``)."""
        order = "" if last is None else " DESC"
        rows = self._rows(_LOOKS.rstrip() + order, (model, until_s, until_s))
        found = self._readable("event", rows, _entry)
        if last is None:
            yield from found
        else:
            yield from reversed(list(itertools.islice(found, last)))

    def entry(self, model: str, tick_id: str) -> Entry | None:
        """The tick of a model with this id (or the beginning of one); None when there is none.

        Raises:
            JournalError: when it is damaged.
        """
        rows = self._rows(_BY_TICK, (tick_id, tick_id + "\U0010ffff", model))
        for row in rows:
            try:
                return _entry(row)
            except codec.DAMAGE as error:
                raise JournalError(
                    f"journal: event {row[0]} cannot be read ({type(error).__name__}: "
                    f"{str(error)[:200]}).",
                    hint="It is damaged, or of another version of Conch: read it with that one.",
                ) from error
        return None

    def last_change(self, model: str, *, until_s: float | None = None) -> Entry | None:
        """The newest tick that led to an action, of those that can be read."""
        rows = self._rows(
            "SELECT id, tick_id FROM action WHERE model = ? AND (? IS NULL OR begun_at_s <= ?)"
            " ORDER BY id DESC LIMIT ?",
            (model, until_s, until_s, _MOST_DAMAGED),
        )
        for _, tick_id in list(rows):
            try:
                return self.entry(model, tick_id)
            except (JournalError, TypeError) as error:
                log.warning("journal.row_damaged", table="event", error=str(error)[:200])
        return None

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        rows = self._rows(
            "SELECT id, begun_at_s, mode, version, tick_s, models FROM run ORDER BY id"
        )
        return list(self._readable("run", rows, _run))

    def records(self, run: int, model: str) -> Iterator[Record]:
        """The events of a model in a run, in their order; a damaged one is a gap."""
        rows = self._rows(
            "SELECT id, kind, data FROM event WHERE run = ? AND model = ? ORDER BY id", (run, model)
        )
        for number, kind, stored in rows:
            try:
                yield _record(number, kind, stored)
            except codec.DAMAGE as error:
                _say_damaged("event", number, error)
                if kind != CHECKPOINT:  # which only repeats what the events before it say
                    yield Record(id=number, event=None)

    def learnt(self, model: str) -> dict[str, Any]:
        """What ``save_learnt`` kept; empty when there is nothing."""
        rows = self._rows("SELECT model, data FROM learnt WHERE model = ?", (model,))
        return next(self._readable("learnt", rows, _learnt), {})

    def actions(self, model: str | None = None) -> list[ActionEntry]:
        """Actions of a model, or of all, oldest first."""
        rows = self._rows(
            "SELECT id, model, tick_id, begun_at_s, ended_at_s, result FROM action"
            " WHERE ? IS NULL OR model = ? ORDER BY id",
            (model, model),
        )
        return list(self._readable("action", rows, _action))

    def tried(self, model: str, *, since_s: float) -> tuple[Applied, ...]:
        """What ended since then, as the core remembers it, oldest first."""
        rows = self._rows(
            "SELECT id, ended_at_s, desired, result, change FROM action"
            " WHERE model = ? AND ended_at_s > ? ORDER BY id",
            (model, since_s),
        )
        found = self._readable("action", rows, _tried)
        return tuple(change for change in found if change is not None)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query.

        Raises:
            JournalError: when the file is damaged, or cannot be read.
        """
        try:
            for row in self._db.execute(query, values):  # noqa: UP028  # which would close it
                yield row
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise JournalError(
                f"journal: cannot be read ({error}).",
                hint="If it is damaged, `conch control run` puts it aside and begins a new one; "
                "`sqlite3 FILE .recover` saves what is in it.",
            ) from error

    def _readable(
        self, table: str, rows: Iterable[tuple[Any, ...]], read: Callable[[tuple[Any, ...]], T]
    ) -> Iterator[T]:
        """What the rows say, but for those that are damaged: the first of them is said."""
        said = False
        for row in rows:
            try:
                made = read(row)
            except codec.DAMAGE as error:
                if not said:
                    _say_damaged(table, row[0], error)
                said = True
                continue
            yield made

    def models(self) -> list[str]:
        """Every model with a tick, sorted."""
        # A step of the index for each name, where DISTINCT would read millions of rows.
        rows = self._rows(
            "WITH RECURSIVE name(it) AS (SELECT min(model) FROM event UNION ALL"
            "  SELECT (SELECT min(model) FROM event WHERE model > it) FROM name"
            "  WHERE it IS NOT NULL)"
            " SELECT it FROM name WHERE it IS NOT NULL"
            "  AND EXISTS (SELECT 1 FROM event WHERE model = it AND kind = 'looked')"
        )
        return [name for (name,) in rows if isinstance(name, str)]


def _entry(row: tuple[Any, ...]) -> Entry:
    """A row of ``_LOOKS`` or ``_BY_TICK``."""
    number, run, model, mode, stored = row
    data = codec.unpacked(stored)
    return Entry(
        id=number,
        run=run,
        model=_text(model),
        mode=_text(mode),
        observation=codec.observation(data["seen"]),
        decision=codec.decision(data["decision"]),
    )


def _run(row: tuple[Any, ...]) -> Run:
    """A row of the runs."""
    number, begun, mode, version, tick_s, text = row
    models = codec.parsed(_text(text))
    policies = {m: codec.policy(by["policy"]) for m, by in models.items()}
    return Run(
        id=number,
        begun_at_s=_number(begun),
        mode=_text(mode),
        version=_text(version),
        tick_s=None if tick_s is None else _number(tick_s),
        policies=policies,
        rules={m: (_text(by["rule"]), {**by["options"]}) for m, by in models.items()},
    )


def _record(number: int, kind: str, stored: bytes | str | None) -> Record:
    """A row of the sequence."""
    if kind == OPENED:
        return Record(id=number, event=None, begins=True)
    if kind == GAP or stored is None:
        return Record(id=number, event=None)
    data = codec.unpacked(stored)
    if kind == CHECKPOINT:
        return Record(id=number, event=None, state=checkpoint.unpack(data))
    decided = codec.decision(data["decision"]) if kind == "looked" else None
    return Record(id=number, event=codec.event(kind, data), decision=decided)


def _learnt(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of what was learnt."""
    data = codec.parsed(_text(row[1]))
    if not isinstance(data, dict):
        raise TypeError(f"{type(data).__name__}, must be an object")
    codec.text(Started(at_s=0.0, learnt=data))  # what cannot be written down again is damaged
    return data


def _action(row: tuple[Any, ...]) -> ActionEntry:
    """A row of the actions."""
    _, model, tick_id, begun, ended, text = row
    result = None if text is None else codec.parsed(_text(text))
    if result is not None:
        _text(result["outcome"])
    return ActionEntry(
        model=_text(model),
        tick_id=_text(tick_id),
        begun_at_s=_number(begun),
        ended_at_s=None if ended is None else _number(ended),
        result=result,
    )


def _tried(row: tuple[Any, ...]) -> Applied | None:
    """A row of the actions that ended, as the core remembers it."""
    _, ended_at_s, desired, text, kept = row
    change = codec.applied(codec.parsed(_text(kept))) if kept else None
    return change or _change(
        codec.parsed(_text(desired)), codec.parsed(_text(text)), _number(ended_at_s)
    )


def _text(value: Any) -> str:
    """The value of a column of texts.

    Raises:
        TypeError: when it is none: SQLite keeps whatever is put there.
    """
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in a column of texts")
    return value


def _number(value: Any) -> float:
    """The value of a column of numbers; errors as in ``_text``."""
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} in a column of numbers")
    return value


def _say_damaged(table: str, number: Any, error: BaseException) -> None:
    """A line on a row that cannot be read."""
    log.warning(
        "journal.row_damaged",
        table=table,
        row=number,
        error=f"{type(error).__name__}: {str(error)[:200]}",
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
