"""A journal that is removed, replaced or cut while it runs: it begins anew, and says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from control.core.decision.decide import Conch
from control.journal import replay
from control.journal.writer import Journal, OnTrouble
from tests.unit.test_journal import ACTION
from tests.unit.test_replay import POLICY
from tests.unit.troubled_journal import events, garbage, recorder_of, said

__all__ = ["said"]


def _replaced(path: Path) -> None:
    with Journal(path.with_name("other")) as other:
        other.save_learnt({"m": {}}, at_s=1.0)
    path.with_name("other").replace(path)


LOST = {
    "removed": lambda path: path.unlink(),
    "all removed": lambda path: [p.unlink() for p in path.parent.glob("j*")],
    "folder removed": lambda path: shutil.rmtree(path.parent),
    "replaced": _replaced,
    "replaced by garbage": lambda path: (path.unlink(), garbage(path)),
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
        recorder = recorder_of(journal)
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
    assert [e for e in events(said) if e in ("journal.lost", "journal.put_aside")]
    assert len(said) <= 3
