"""What is no journal, or may not be written: control starts all the same, and says so."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from control.journal import store
from control.journal.writer import Journal, JournalError, OnTrouble
from tests.unit.test_stored_files import as_nobody
from tests.unit.troubled_journal import events, garbage, recorder_of, said

__all__ = ["as_nobody", "said"]


def _half(path: Path) -> None:
    with Journal(path) as journal:
        recorder_of(journal).passes(50, 100)
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
    garbage,
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
        recorder_of(journal).passes(3, 100)
        assert len(list(journal.entries("m"))) == 3
    assert _picture(tmp_path).keys() == before.keys()
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder_of(journal).passes(3, 100)
    with Journal(path, read_only=True) as read:
        assert len(list(read.entries("m"))) == 3
    assert events(said).count("journal.put_aside") == 1
    assert events(said).count("journal.in_memory") == 1
    aside = [p for p in tmp_path.iterdir() if ".unusable-" in p.name]
    assert aside
    assert not (tmp_path / "elsewhere").exists()
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW):
        pass
    assert events(said).count("journal.put_aside") == 1


def test_a_disk_that_refuses_is_no_reason_to_put_a_journal_aside(tmp_path, monkeypatch) -> None:
    """A full one, or a folder that may not be written: said, and a change is refused."""
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = recorder_of(journal)
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
        recorder_of(journal).passes(3, 100)
        assert not journal.in_memory
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        with Journal(path, read_only=True) as read:
            assert len(list(read.entries("m"))) == 3
        with Journal(path, on_trouble=OnTrouble.IN_MEMORY) as journal:
            recorder_of(journal).passes(3, 100)
            assert journal.in_memory
        with Journal(folder / "new" / "j", on_trouble=OnTrouble.IN_MEMORY) as journal:
            recorder_of(journal).passes(3, 100)
        for trouble in (OnTrouble.RAISE, OnTrouble.BEGIN_ANEW):
            with pytest.raises(JournalError):
                Journal(path, on_trouble=trouble)
            with pytest.raises(JournalError):
                Journal(folder / "new" / "j", on_trouble=trouble)
    finally:
        folder.chmod(0o755)
    assert events(said).count("journal.in_memory") == 2


def test_a_journal_in_memory_does_not_grow(tmp_path, monkeypatch) -> None:
    """Weeks of a dry run."""
    monkeypatch.setattr(store, "MOST_KEPT", 20)
    garbage(tmp_path / "j")
    with Journal(tmp_path / "j", on_trouble=OnTrouble.IN_MEMORY) as journal:
        recorder_of(journal).passes(100, 100)
        assert len(list(journal.entries("m"))) == 20


@pytest.mark.parametrize("name", ["q?x", "h#x", "p%41x", "a b", "ü", "q?mode=rwc", "file:x"])
def test_odd_paths_are_opened_as_they_are_written(tmp_path, name: str) -> None:
    """And nothing is made beside them, by a reader or a writer."""
    folder = tmp_path / name
    with Journal(folder / "j") as journal:
        recorder_of(journal).passes(2, 100)
    with pytest.raises(JournalError, match="not there"):
        Journal(folder / "none", read_only=True)
    with Journal(folder / "j", read_only=True) as read:
        assert len(list(read.entries("m"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in folder.iterdir()} <= {"j", "j-wal", "j-shm"}
