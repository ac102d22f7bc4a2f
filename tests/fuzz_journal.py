"""What a broken disk, another program or a hostile hand leaves in the journal."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control.core.memory import restart
from control.core.memory.state import ControlState
from control.core.step import Looked, Started, step
from control.journal import codec, replay
from control.journal.writer import Journal, OnTrouble
from tests.fuzz_mutate import deep, of_bytes, of_value
from tests.fuzz_scratch import is_refused, scratch
from tests.unit.story import Story
from tests.unit.test_journal import ACTION
from tests.unit.test_replay import POLICY, RULE, Recorder


@functools.cache
def _journal() -> bytes:
    """A small one with a bit of everything."""
    with scratch() as folder:
        with Journal(folder / "j") as journal:
            recorder = Recorder(journal, Story(policy=POLICY))
            recorder.starts()
            recorder.passes(4, 100)
            recorder.passes(4, 900)
            journal.checkpoint("m", recorder.state, at_s=recorder.story.at_s)
            recorder.passes(4, 900)
            for at_s in (1.0, 2.0):
                handle = journal.begin("m", recorder.decisions[-1], at_s=at_s)
                journal.end(handle, ACTION, at_s=at_s)
            journal.begin("m", recorder.decisions[-1], at_s=3.0)
            learnt = restart.to_plain(recorder.state, at_s=recorder.story.at_s)
            journal.save_learnt({"m": learnt}, at_s=3.0)
            recorder.starts()
            recorder.passes(2, 100)
        return (folder / "j").read_bytes()


def _ask(path: Path) -> bool:
    """All that readers ask; whether any of it was refused."""
    refused = [is_refused(lambda: _questions(path)), is_refused(lambda: _replays(path))]
    return any(refused)


def _questions(path: Path) -> None:
    with Journal(path, read_only=True) as read:
        for name in [*read.models(), "m"]:
            list(read.entries(name))
            list(read.entries(name, last=1, until_s=1e9))
            read.last_change(name)
            read.learnt(name)
            read.tried(name, since_s=0.0)
        read.entry("m", "t1")
        read.actions()


def _replays(path: Path) -> None:
    with Journal(path, read_only=True) as read:
        for run in read.runs():
            for name in run.policies:
                rule, policy = replay.rule_of(run, name)
                replay.replay(read.records(run.id, name), rule, policy)


def _goes_on(path: Path) -> None:
    """A controller starts with it, whatever is in it, and writes."""
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        journal.start_run(
            at_s=1.0, mode="active", policies={"m": POLICY}, rules={"m": RULE}, tick_s=1.0
        )
        recorder.starts()
        recorder.passes(1, 100)
        journal.end(journal.begin("m", recorder.decisions[0], at_s=1.0), ACTION, at_s=2.0)
        assert not journal._written.queue.rows
    with Journal(path, read_only=True) as read:
        assert next(iter(read.entries("m", last=1))).decision == recorder.decisions[0]


def journal_bytes(draw: random.Random) -> bool:
    """The file's bytes."""
    with scratch() as folder:
        (folder / "j").write_bytes(of_bytes(_journal(), draw))
        refused = _ask(folder / "j")
        if draw.random() < 0.3:  # it takes longer than all the rest
            _goes_on(folder / "j")
    return refused


COLUMNS = {
    "run": ("begun_at_s", "mode", "version", "tick_s", "models"),
    "event": ("run", "model", "kind", "at_s", "tick_id", "data"),
    "learnt": ("model", "at_s", "data"),
    "action": ("tick_id", "model", "begun_at_s", "desired", "ended_at_s", "result", "change"),
}
ODD: tuple[Any, ...] = ("", "x", "looked", "[]", "{", b"", b"\xff", 0, -1, 2**62, 1e308, math.inf)


def journal_rows(draw: random.Random) -> bool:
    """Values in its rows: odd ones, or JSON that is not what it was."""
    with scratch() as folder:
        path = folder / "j"
        path.write_bytes(_journal())
        db = sqlite3.connect(path)
        for _ in range(draw.choice((1, 2, 5))):
            table = draw.choice(list(COLUMNS))
            column = draw.choice(COLUMNS[table])
            found = db.execute(f"SELECT rowid, {column} FROM {table}").fetchall()  # noqa: S608
            number, value = draw.choice(found)
            with contextlib.suppress(sqlite3.IntegrityError):
                query = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"  # noqa: S608
                db.execute(query, (_row_value(value, draw), number))
        db.commit()
        db.close()
        refused = _ask(path)
        if draw.random() < 0.3:
            _goes_on(path)
    return refused


def _row_value(value: Any, draw: random.Random) -> Any:
    if draw.random() < 0.25:
        return draw.choice(ODD)
    try:
        data = codec.unpacked(value)
    except codec.DAMAGE:
        return draw.choice(ODD)
    try:
        odd = draw.random() < 0.05
        content = json.dumps(deep(draw.choice((200, 900, 3000))) if odd else of_value(data, draw))
    except (RecursionError, ValueError):
        content = "[" * 5000
    if isinstance(value, str):
        return content if draw.random() < 0.9 else content.encode()
    packed = codec.packed(content)
    return packed if draw.random() < 0.9 else of_bytes(packed, draw)


@functools.cache
def _learnt() -> dict[str, Any]:
    state = Story().passes(10, load_rps=100).passes(10, load_rps=900).state
    made = json.loads(json.dumps(restart.to_plain(state, at_s=1.0)))
    assert isinstance(made, dict)
    return made


def learnt(draw: random.Random) -> bool:
    """What a controller has learnt, as the next one reads and uses it."""
    data = of_value(_learnt(), draw)
    story = Story().passes(1, load_rps=100)
    assert story.state.last is not None
    with scratch() as folder, Journal(folder / "j") as journal:
        content = "[" * 3000 if draw.random() < 0.02 else json.dumps(data)
        journal._execute("INSERT INTO learnt VALUES ('m', 1.0, ?)", (content,))
        read = journal.learnt("m")
        state, _ = step(RULE, ControlState(), Started(at_s=1000.0, learnt=read), POLICY)
        for at_s in (1001.0, 1002.0):
            seen = Looked(seen=codec.observation(json.loads(codec.text(story.state.last))))
            state, _ = step(RULE, state, seen, POLICY)
            journal.save_learnt({"m": restart.to_plain(state, at_s=at_s)}, at_s=at_s)
        return read == {}


TARGETS: dict[str, Callable[[random.Random], bool]] = {
    "journal bytes": journal_bytes,
    "journal rows": journal_rows,
    "learnt": learnt,
}
