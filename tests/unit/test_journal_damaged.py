"""Rows and pages that are damaged cost themselves, and are said in our words."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from control.core.decision.decide import Conch
from control.core.memory.changes import Applied
from control.core.types import Settings
from control.journal import codec, replay
from control.journal.writer import Journal, JournalError, OnTrouble
from tests.unit.test_journal import ACTION
from tests.unit.test_replay import POLICY
from tests.unit.troubled_journal import events, recorder_of, said

__all__ = ["said"]
TWO = Settings(instances=2, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)
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
        recorder = recorder_of(journal)
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
    assert "journal.row_damaged" in events(said)


def test_damaged_pages_are_said_in_our_words(tmp_path) -> None:
    """For a reader an error with a hint; for a controller nothing known."""
    with Journal(tmp_path / "j") as journal:
        recorder = recorder_of(journal)
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
        recorder_of(journal).passes(50, 100)
        assert len(list(journal.entries("m"))) == 50


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
        recorder_of(journal).passes(2, 100)
        journal.start_run(at_s=1.0, mode="active", policies={"m": POLICY}, rules={"m": Conch()})
        text = journal._db.execute("SELECT models FROM run WHERE id = 2").fetchone()[0]
        models = json.loads(text)
        models["m"]["policy"]["max_instances"] = 2**31
        journal._execute("UPDATE run SET models = ? WHERE id = 2", (json.dumps(models),))
        assert [run.id for run in journal.runs()] == [1]
    assert "journal.row_damaged" in events(said)
