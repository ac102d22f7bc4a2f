"""A journal that another process holds: never in a tick's way, and nothing is lost."""

from __future__ import annotations

import time

import pytest

from control.core.decision.decide import Conch
from control.journal import replay
from control.journal import writer as journals
from control.journal.writer import Journal, OnTrouble
from tests.unit.test_journal import ACTION
from tests.unit.test_replay import POLICY
from tests.unit.troubled_journal import events, held, recorder_of, said

__all__ = ["said"]


def test_a_locked_journal_keeps_nobody_waiting_and_loses_nothing(tmp_path, said) -> None:
    """Neither looks nor a change; all of it is written, in order, when it is free."""
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = recorder_of(journal)
        recorder.passes(5, 100)
        with held(tmp_path / "j"):
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
    assert events(said).count("journal.locked") < 4
    assert events(said).count("journal.free") == 1


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_controller_starts_while_the_journal_is_locked(tmp_path, said, how: str) -> None:
    """With what it can know: what was learnt where reading is allowed, else nothing."""
    with Journal(tmp_path / "j") as journal:
        journal.save_learnt({"m": {"a": 1}}, at_s=1.0)
    with held(tmp_path / "j", how):
        journal = Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW)
        assert journal.learnt("m") == ({"a": 1} if how == "IMMEDIATE" else {})
        assert journal.tried("m", since_s=0.0) == ()
        recorder = recorder_of(journal)
        recorder.passes(5, 100)
    with journal:
        recorder.passes(5, 100)
    with Journal(tmp_path / "j", read_only=True) as read:
        assert len(list(read.entries("m"))) == 10
        assert read.learnt("m") == {"a": 1}
        assert len(read.runs()) == 1
    assert "journal.locked" in events(said)


def test_who_waits_for_ever_keeps_a_bounded_memory(tmp_path, monkeypatch) -> None:
    """A gap, and the newest."""
    monkeypatch.setattr(journals, "MOST_WAITING", 50)
    with Journal(tmp_path / "j", on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = recorder_of(journal)
        with held(tmp_path / "j"):
            for number in range(200):
                recorder.passes(1, 100)
                journal.begin("m", recorder.decisions[-1], at_s=float(number))
                assert len(journal._written.queue.rows) <= 60
        recorder.passes(1, 100)
    with Journal(tmp_path / "j", read_only=True) as read:
        assert read.actions()[-1].begun_at_s == 199.0
        assert list(read.entries("m"))[-1].decision == recorder.decisions[-1]
