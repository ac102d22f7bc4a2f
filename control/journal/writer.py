"""What was seen, decided and done, in SQLite: enough to explain and to replay every decision.

Theory of operation. Every event of ``control.core.step`` goes into one sequence, in the order in
which the core took it in, and each run says by which policies and rules it decided. The events of a
tick are written together at its end; ``begin`` writes what waits, and its own record, before
anything is changed. WAL with ``synchronous=FULL``: what was written survives kill -9 and a power
cut. An action is recorded as begun before the first write and as ended after it, so an unfinished
one is visible.

The journal is never in the way of a tick. While another process holds the file, what is to be
written waits in memory, also the record of a change: what the change is and how it is undone is in
the revisions by then. A disk that is full refuses a change. What is found to be no journal is put
aside by the one controller that may write, and a new file begins with a run of its own.
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
from control.action import Action
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules.rule import Rule
from control.core.step import Event, Looked
from control.core.types import Decision, Observation
from control.journal import checkpoint, codec, file, queue
from control.journal.queue import Row
from control.journal.reader import (
    CHECKPOINT,
    GAP,
    OPENED,
    ActionEntry,
    Entry,
    JournalReader,
    Record,
    Run,
)
from control.journal.schema import JournalError
from control.journal.store import OnTrouble, Store

__all__ = ["ActionEntry", "Entry", "Journal", "JournalError", "OnTrouble", "Record", "Run"]

log = structlog.get_logger()

MOST_WAITING = 10_000
"""Events that wait for a disk that refuses them; beyond, they are lost and a gap is recorded."""
_NO_POLICIES: Mapping[str, Policy] = {}


class Journal(JournalReader):
    """The journal file of one repository; use it as a context manager."""

    def __init__(
        self, path: Path, *, read_only: bool = False, on_trouble: OnTrouble = OnTrouble.RAISE
    ) -> None:
        """Open it, creating it unless ``read_only``; an older format is brought up to date.

        One that another process holds is opened when it is free, unless trouble is to ``RAISE``.

        Raises:
            JournalError: when it cannot be opened, is of a newer format, or is not there to be
                read.
        """
        self._run: Row | None = None
        self._models: tuple[str, ...] = ()
        self._begun: dict[int, Row] = {}
        self._ended: set[int] = set()
        self._reads = file.open_to_read(path) if read_only else None
        self._store = None if read_only else Store(path, on_trouble, first=self._first)

    @property
    def _db(self) -> sqlite3.Connection:
        """What is open now."""
        return self._written.db if self._reads is None else self._reads

    @property
    def _written(self) -> Store:
        """What is written into."""
        if self._store is None:
            raise JournalError("journal: was opened to be read.", hint="Open it to write.")
        return self._store

    @property
    def in_memory(self) -> bool:
        """Whether nothing of what is written stays: see ``OnTrouble.IN_MEMORY``."""
        return self._store is not None and self._store.in_memory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is not None:
            self._store.close()
        if self._reads is not None:
            self._reads.close()

    def start_run(
        self,
        *,
        at_s: float,
        mode: str,
        policies: Mapping[str, Policy],
        rules: Mapping[str, Rule],
        tick_s: float | None = None,
    ) -> int:
        """A run begins: who decides, and by what; gives its number, 0 while that is not known.

        Every model's memory is empty from here on, until ``Started`` fills it.
        """
        models = {name: _by(rules[name], policy) for name, policy in policies.items()}
        values = (at_s, mode, conch.__version__, tick_s, json.dumps(models, default=str))
        self._run = self._written.queue.put(queue.RUN, values, handle=True)
        self._models = tuple(policies)
        for name in policies:
            self._wait(name, OPENED, at_s, None, None)
        self.flush()
        return self._written.queue.number(self._run.makes)

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

    def flush(self) -> bool:
        """Make durable what waits, in one transaction; gives whether nothing waits any more.

        While another process holds the file, it goes on waiting.

        Raises:
            JournalError: when the disk refuses; it goes on waiting then, too.
        """
        if not self._written.flush():
            return False
        for handle in self._ended:
            self._begun.pop(handle, None)
            self._written.queue.forget(handle)
        self._ended.clear()
        return True

    def record(self, model: str, seen: Observation, decision: Decision, *, mode: str) -> None:
        """One tick, durable at once; begins a run without policies where none has begun."""
        if self._run is None:
            self.start_run(at_s=seen.at_s, mode=mode, policies=_NO_POLICIES, rules={})
        self.append(model, Looked(seen=seen), decision, at_s=seen.at_s)
        self.flush()

    def begin(self, model: str, decision: Decision, *, at_s: float) -> int:
        """Record that an action begins; gives its handle for ``end``. Durable, with all before it.

        Raises:
            JournalError: when the disk refuses: it must not begin then. A file that another process
                holds is no reason not to.
        """
        values = (decision.tick_id, model, at_s, codec.text(decision.desired))
        row = self._written.queue.put(queue.BEGIN, values, handle=True)
        try:
            self.flush()
        except JournalError:
            self._written.queue.rows.remove(row)
            raise
        self._begun[row.makes] = row
        return row.makes

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
        values = (at_s, json.dumps(data), codec.text(change) if change else None)
        self._written.queue.put(queue.END, values, of=action_id)
        self._ended.add(action_id)
        self.flush()

    def save_learnt(self, learnt: Mapping[str, Mapping[str, Any]], *, at_s: float) -> None:
        """What was learnt, in its saved form by model, for the next controller."""
        self._written.queue.drop(queue.LEARNT)
        for model, value in learnt.items():
            self._written.queue.put(queue.LEARNT, (model, at_s, json.dumps(value)))
        self.flush()

    def learnt(self, model: str) -> dict[str, Any]:
        """What ``save_learnt`` kept; for a controller nothing, too, where that cannot be read."""
        try:
            return super().learnt(model)
        except JournalError as error:
            self._unread(error)
            return {}

    def tried(self, model: str, *, since_s: float) -> tuple[Applied, ...]:
        """What ended since then; for a controller nothing, too, where that cannot be read."""
        try:
            return super().tried(model, since_s=since_s)
        except JournalError as error:
            self._unread(error)
            return ()

    def prune(self, *, before_s: float) -> None:
        """Forget the events from before ``before_s``, but for the looks that led to an action.

        Of a run that goes on, all since its newest checkpoint before then stays: it is replayed
        from there.
        """
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
        assert self._run is not None  # noqa: S101  # it is now
        if len(self._written.queue.rows) >= MOST_WAITING:
            names = sorted({row.values[0] for row in self._written.queue.drop(queue.EVENT)})
            log.error("journal.gap", models=names)
            self._written.queue.cut(MOST_WAITING // 2)
            for name in names:
                self._written.queue.put(
                    queue.EVENT, (name, GAP, at_s, None, None), of=self._run.makes
                )
        stored = codec.packed(content) if content is not None else None
        values = (model, kind, at_s, tick_id, stored)
        self._written.queue.put(queue.EVENT, values, of=self._run.makes)

    def _execute(self, statement: str, values: tuple[Any, ...] | dict[str, Any]) -> None:
        """One durable write after all that waits; none while another process holds the file."""
        self._written.execute(statement, values)

    def _first(self) -> list[Row]:
        """What another file begins with: this run, that nothing is known before, what has begun."""
        if self._run is None:
            return []
        gaps = [
            Row(
                statement=queue.EVENT,
                values=(name, GAP, self._run.values[0], None, None),
                of=self._run.makes,
            )
            for name in self._models
        ]
        return [self._run, *gaps, *self._begun.values()]

    def _unread(self, error: JournalError) -> None:
        """A controller goes on without; who only reads is told.

        Raises:
            JournalError: the same, for a reader.
        """
        if self._reads is not None:
            raise error
        log.error("journal.not_read", error=error.message)


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
