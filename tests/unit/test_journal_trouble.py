"""A journal that is locked, lost, damaged or none at all: never in a tick's way, and said."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from control import codec, journal_store, replay
from control import journal as journals
from control.actuator import Action, Outcome
from control.core.policies.conch import Conch
from control.core.state import Applied
from control.core.types import Settings
from control.journal import Journal, JournalError, OnTrouble
from serving.model_config import ReloadKind
from tests.unit.story import Story
from tests.unit.test_replay import POLICY, Recorder
from tests.unit.test_stored_files import as_nobody

__all__ = ["as_nobody"]

ACTION = Action(
    model="m",
    kind=ReloadKind.IN_PLACE,
    outcome=Outcome.APPLIED,
    seconds=0.5,
    revision=2,
    diff="",
)


TWO = Settings(instances=2, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def _recorder(journal: Journal) -> Recorder:
    recorder = Recorder(journal, Story(policy=POLICY))
    recorder.starts()
    return recorder


@contextlib.contextmanager
def _held(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another process holds the file."""
    other = sqlite3.connect(path)
    if how == "EXCLUSIVE":
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute(f"BEGIN {how}")
    other.execute("CREATE TABLE IF NOT EXISTS other (id)")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def _events(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]


# --- locked ----------------------------------------------------------------------------------


def test_a_locked_journal_keeps_nobody_waiting_and_loses_nothing(tmp_path, said) -> None:
    """Neither looks nor a change; all of it is written, in order, when it is free."""
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = _recorder(journal)
        recorder.passes(5, 100)
        with _held(tmp_path / "j"):
            begun_s = time.monotonic()
            recorder.passes(20, 900)
            change = next(d for d in recorder.decisions if d.changes)
            first = journal.begin("m", change, at_s=1.0)
            second = journal.begin("m", change, at_s=2.0)
            journal.end(first, ACTION, at_s=3.0)
            journal.save_learnt({"m": {"a": 1}}, at_s=3.0)
            journal.save_learnt({"m": {"a": 2}}, at_s=4.0)
            journal.prune(before_s=0.0)
            assert time.monotonic() - begun_s < 4.0  # it was 5 s for each of them
            assert all(a.begun_at_s > 1000 for a in journal.actions())
        recorder.passes(3, 900)
        journal.end(second, ACTION, at_s=5.0)
    with Journal(tmp_path / "j", read_only=True) as journal:
        assert [e.decision for e in journal.entries("m")] == recorder.decisions
        spans = {a.begun_at_s: a.ended_at_s for a in journal.actions("m")}
        assert (spans[1.0], spans[2.0]) == (3.0, 5.0)
        assert None not in spans.values()
        assert journal.learnt("m") == {"a": 2}
        (run,) = journal.runs()
        done = replay.replay(journal.records(run.id, "m"), Conch(), POLICY)
    assert done.equal == done.looks == 28
    assert _events(said).count("journal.locked") < 4
    assert _events(said).count("journal.free") == 1


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_controller_starts_while_the_journal_is_locked(tmp_path, said, how: str) -> None:
    """With what it can know: what was learnt where reading is allowed, else nothing."""
    with Journal(tmp_path / "j") as journal:
        journal.save_learnt({"m": {"a": 1}}, at_s=1.0)
    with _held(tmp_path / "j", how):
        journal = Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW)
        assert journal.learnt("m") == ({"a": 1} if how == "IMMEDIATE" else {})
        assert journal.tried("m", since_s=0.0) == ()
        recorder = _recorder(journal)
        recorder.passes(5, 100)
    with journal:
        recorder.passes(5, 100)
    with Journal(tmp_path / "j", read_only=True) as read:
        assert len(list(read.entries("m"))) == 10
        assert read.learnt("m") == {"a": 1}
        assert len(read.runs()) == 1
    assert "journal.locked" in _events(said)


def test_who_waits_for_ever_keeps_a_bounded_memory(tmp_path, monkeypatch) -> None:
    """A gap, and the newest."""
    monkeypatch.setattr(journals, "MOST_WAITING", 50)
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = _recorder(journal)
        with _held(tmp_path / "j"):
            for number in range(200):
                recorder.passes(1, 100)
                journal.begin("m", recorder.decisions[-1], at_s=float(number))
                assert len(journal._written.queue.rows) <= 60
        recorder.passes(1, 100)
    with Journal(tmp_path / "j", read_only=True) as read:
        assert read.actions()[-1].begun_at_s == 199.0
        assert list(read.entries("m"))[-1].decision == recorder.decisions[-1]


# --- no journal ------------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but a long enough text" * 100)


def _half(path: Path) -> None:
    with Journal(path) as journal:
        _recorder(journal).passes(50, 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096 + 100])


def _damaged_schema(path: Path) -> None:
    with Journal(path):
        pass
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xa5" * 3996
    path.write_bytes(data)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def _of_another(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, what TEXT)")
    db.close()


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def _folder(path: Path) -> None:
    (path / "x").mkdir(parents=True)


def _folder_for_wal(path: Path) -> None:
    with Journal(path):
        pass
    path.with_name(path.name + "-wal").mkdir()


NONE = [
    _garbage,
    _half,
    _damaged_schema,
    _newer,
    _of_another,
    _link_to_nothing,
    _folder,
    _folder_for_wal,
    os.mkfifo,
]


def _picture(folder: Path) -> dict[str, object]:
    return {
        path.name: path.read_bytes() if path.is_file() and not path.is_symlink() else path.lstat()
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


@pytest.mark.parametrize("make", NONE)
def test_what_is_no_journal_is_put_aside_and_control_starts(tmp_path, said, make) -> None:
    """Whole, with its name and the time; one line says so. A reader moves nothing."""
    path = tmp_path / "j"
    make(path)
    before = _picture(tmp_path)
    for trouble in ({"read_only": True}, {"on_trouble": OnTrouble.RAISE}):
        with pytest.raises(JournalError, match="journal") as refused, Journal(path, **trouble) as j:
            list(j.entries("m"))
        assert refused.value.hint
    assert _picture(tmp_path).keys() == before.keys()
    with Journal(path, on_trouble=OnTrouble.IN_MEMORY) as journal:
        _recorder(journal).passes(3, 100)
        assert len(list(journal.entries("m"))) == 3
    assert _picture(tmp_path).keys() == before.keys()
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        _recorder(journal).passes(3, 100)
    with Journal(path, read_only=True) as read:
        assert len(list(read.entries("m"))) == 3
    assert _events(said).count("journal.put_aside") == 1
    assert _events(said).count("journal.in_memory") == 1
    aside = [p for p in tmp_path.iterdir() if ".unusable-" in p.name]
    assert aside
    assert not (tmp_path / "elsewhere").exists()
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW):
        pass
    assert _events(said).count("journal.put_aside") == 1


def test_a_disk_that_refuses_is_no_reason_to_put_a_journal_aside(tmp_path, monkeypatch) -> None:
    """A full one, or a folder that may not be written: said, and a change is refused."""
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = _recorder(journal)
        recorder.passes(30, 900)
        change = next(d for d in recorder.decisions if d.changes)
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalError, match="full"):
            recorder.passes(300, 900)
        with pytest.raises(JournalError, match="full"):
            journal.begin("m", change, at_s=1.0)
        journal._db.execute("PRAGMA max_page_count = 100000")
        journal.flush()
        assert all(a.begun_at_s > 1000 for a in journal.actions())
        assert list(journal.entries("m"))[-1].decision == recorder.decisions[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j"]


def test_a_repository_that_may_not_be_written(as_nobody: Path, said) -> None:
    """A loop that changes nothing works there; one that would is told; readers read."""
    folder = as_nobody / "state"
    folder.mkdir()
    path = folder / "j"
    with Journal(path) as journal:
        _recorder(journal).passes(3, 100)
        assert not journal.in_memory
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        with Journal(path, read_only=True) as read:
            assert len(list(read.entries("m"))) == 3
        with Journal(path, on_trouble=OnTrouble.IN_MEMORY) as journal:
            _recorder(journal).passes(3, 100)
            assert journal.in_memory
        with Journal(folder / "new" / "j", on_trouble=OnTrouble.IN_MEMORY) as journal:
            _recorder(journal).passes(3, 100)
        for trouble in (OnTrouble.RAISE, OnTrouble.BEGIN_ANEW):
            with pytest.raises(JournalError):
                Journal(path, on_trouble=trouble)
            with pytest.raises(JournalError):
                Journal(folder / "new" / "j", on_trouble=trouble)
    finally:
        folder.chmod(0o755)
    assert _events(said).count("journal.in_memory") == 2


def test_a_journal_in_memory_does_not_grow(tmp_path, monkeypatch) -> None:
    """Weeks of a dry run."""
    monkeypatch.setattr(journal_store, "MOST_KEPT", 20)
    _garbage(tmp_path / "j")
    with Journal(tmp_path / "j", on_trouble=OnTrouble.IN_MEMORY) as journal:
        _recorder(journal).passes(100, 100)
        assert len(list(journal.entries("m"))) == 20


# --- lost while it runs ----------------------------------------------------------------------


def _replaced(path: Path) -> None:
    with Journal(path.with_name("other")) as other:
        other.save_learnt({"m": {}}, at_s=1.0)
    path.with_name("other").replace(path)


LOST = {
    "removed": lambda path: path.unlink(),
    "all removed": lambda path: [p.unlink() for p in path.parent.glob("j*")],
    "folder removed": lambda path: shutil.rmtree(path.parent),
    "replaced": _replaced,
    "replaced by garbage": lambda path: (path.unlink(), _garbage(path)),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "wal removed": lambda path: path.with_name("j-wal").unlink(),
    "moved away": lambda path: path.rename(path.with_name("moved")),
}


@pytest.mark.parametrize("how", LOST)
def test_a_journal_that_is_lost_while_it_runs_begins_anew(tmp_path, said, how: str) -> None:
    """Noticed at the next tick; a run of its own, which replays from its first checkpoint on."""
    path = tmp_path / "state" / "j"
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = _recorder(journal)
        recorder.passes(40, 100)
        journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        recorder.passes(1, 100)
        open_action = journal.begin("m", recorder.decisions[-1], at_s=7.0)
        done_action = journal.begin("m", recorder.decisions[-1], at_s=8.0)
        journal.end(done_action, ACTION, at_s=9.0)
        LOST[how](path)
        recorder.passes(5, 100)
        journal.end(open_action, ACTION, at_s=10.0)
        journal.checkpoint("m", recorder.state, at_s=recorder.story.at_s)
        recorder.passes(6, 100)
    with Journal(path, read_only=True) as read:
        assert [e.decision for e in read.entries("m")][-11:] == recorder.decisions[-11:]
        assert read.runs()
        newest = read.runs()[-1]
        done = replay.replay(read.records(newest.id, "m"), Conch(), POLICY)
        assert done.equal == done.looks >= 6
        (opened, *rest) = [a for a in read.actions("m") if a.begun_at_s == 7.0][-1:]
        assert opened.ended_at_s == 10.0
        assert rest == []
    assert [e for e in _events(said) if e in ("journal.lost", "journal.put_aside")]
    assert len(said) <= 3


# --- damaged ---------------------------------------------------------------------------------

BOMB = zlib.compressobj(9, zdict=codec._COMMON)
BOMB_DATA = b"".join(BOMB.compress(b" " * 2**20) for _ in range(64)) + BOMB.flush()
ROTTEN: list[Any] = [
    b"",
    b"\xff\xfe",
    b"x" * 100,
    codec.packed("{"),
    codec.packed("[" * 50_000),
    codec.packed("{}"),
    codec.packed('{"seen": null, "decision": 3}'),
    codec.packed("null"),
    codec.packed("9" * 5000),
    codec.packed(json.dumps({"seen": {}, "decision": {"reason": "NONE_SUCH", "clamps": []}})),
    codec.packed(json.dumps({"seen": {}, "decision": {"reason": [], "clamps": [[]]}})),
    codec.packed("x")[:-3],
    BOMB_DATA,
    "{",
    "\x00",
    3,
    2.5,
    float("inf"),
]


@pytest.mark.parametrize("value", ROTTEN, ids=range(len(ROTTEN)))
def test_a_damaged_row_costs_that_row(tmp_path, said, value: Any) -> None:
    """In each table; readers pass over it with a line, a replay takes it for the gap it is."""
    with Journal(tmp_path / "j") as journal:
        recorder = _recorder(journal)
        recorder.passes(20, 100)
        journal.checkpoint("m", recorder.state, at_s=recorder.story.at_s)
        recorder.passes(20, 100)
        for at_s in (1.0, 2.0):
            settings = Applied(at_s=at_s, settings=TWO, reload=False, ok=True)
            handle = journal.begin("m", recorder.decisions[-1], at_s=at_s)
            journal.end(handle, ACTION, at_s=at_s, change=settings)
        journal.save_learnt({"m": {"a": 1}, "n": {"a": 1}}, at_s=1.0)
        journal.start_run(at_s=1.0, mode="active", policies={}, rules={})
        db = journal._db
        with db:
            looks = [i for (i,) in db.execute("SELECT id FROM event WHERE kind = 'looked'")]
            for number in (looks[5], looks[-1]):
                db.execute("UPDATE event SET data = ? WHERE id = ?", (value, number))
            db.execute("UPDATE learnt SET data = ? WHERE model = 'm'", (value,))
            db.execute("UPDATE run SET models = ? WHERE id = 2", (value,))
            db.execute("UPDATE action SET result = ?, change = ? WHERE id = 2", (value, value))
        assert journal.learnt("m") == {}
        assert len(journal.tried("m", since_s=0.0)) == 1
    with Journal(tmp_path / "j", read_only=True) as read:
        assert len(list(read.entries("m"))) == 38
        assert [e.decision for e in read.entries("m", last=2)] == recorder.decisions[-3:-1]
        assert read.learnt("n") == {"a": 1}
        assert [run.id for run in read.runs()] == [1]
        assert read.actions("m")[0].ended_at_s == 1.0
        assert read.last_change("m") is None
        (run,) = read.runs()
        done = replay.replay(read.records(run.id, "m"), Conch(), POLICY)
        assert done.equal == done.looks == 5 + 19
        with pytest.raises(JournalError, match="cannot be read"):
            read.entry("m", recorder.decisions[-1].tick_id)
    assert "journal.row_damaged" in _events(said)


def test_damaged_pages_are_said_in_our_words(tmp_path) -> None:
    """For a reader an error with a hint; for a controller nothing known."""
    with Journal(tmp_path / "j") as journal:
        recorder = _recorder(journal)
        recorder.passes(300, 100)
    data = bytearray((tmp_path / "j").read_bytes())
    for page in range(8, len(data) // 4096):
        data[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(JournalError) as refused, Journal(tmp_path / "j", read_only=True) as read:
        list(read.entries("m"))
    assert refused.value.hint
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        journal.tried("m", since_s=0.0)
        journal.learnt("m")
        _recorder(journal).passes(50, 100)
        assert len(list(journal.entries("m"))) == 50


@pytest.mark.parametrize("name", ["q?x", "h#x", "p%41x", "a b", "ü", "q?mode=rwc", "file:x"])
def test_odd_paths_are_opened_as_they_are_written(tmp_path, name: str) -> None:
    """And nothing is made beside them, by a reader or a writer."""
    folder = tmp_path / name
    with Journal(folder / "j") as journal:
        _recorder(journal).passes(2, 100)
    with pytest.raises(JournalError, match="not there"):
        Journal(folder / "none", read_only=True)
    with Journal(folder / "j", read_only=True) as read:
        assert len(list(read.entries("m"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in folder.iterdir()} <= {"j", "j-wal", "j-shm"}


def test_a_question_that_cannot_be_asked_is_an_error_of_ours(tmp_path) -> None:
    """A run beyond SQLite's numbers, a tick that is no text."""
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(JournalError):
            list(journal.records(10**30, "m"))
        with pytest.raises(JournalError):
            journal.entry("m", "\udcff")


def test_a_policy_of_endless_instances_is_damaged(tmp_path, said) -> None:
    """A replay would compute each of them."""
    with Journal(tmp_path / "j") as journal:
        _recorder(journal).passes(2, 100)
        journal.start_run(at_s=1.0, mode="active", policies={"m": POLICY}, rules={"m": Conch()})
        text = journal._db.execute("SELECT models FROM run WHERE id = 2").fetchone()[0]
        models = json.loads(text)
        models["m"]["policy"]["max_instances"] = 2**31
        journal._execute("UPDATE run SET models = ? WHERE id = 2", (json.dumps(models),))
        assert [run.id for run in journal.runs()] == [1]
    assert "journal.row_damaged" in _events(said)
