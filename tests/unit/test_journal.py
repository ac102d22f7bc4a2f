"""The journal: what goes in comes out, and an unfinished action is visible."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.action import Action, Outcome
from control.core.memory.changes import Applied, InFlight
from control.core.step import Begun, Ended, Event, Looked, Started
from control.core.types import Decision, Observation
from control.journal import codec, explain
from control.journal.writer import Journal, JournalError
from serving.model_config import ReloadKind
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import Story

ACTION = Action(
    model="m",
    kind=ReloadKind.IN_PLACE,
    outcome=Outcome.APPLIED,
    seconds=0.5,
    revision=2,
    diff="-1\n+2\n",
)


def _story_in(path: Path) -> Story:
    story = Story().passes(10, load_rps=100).passes(4, load_rps=1500)
    with Journal(path) as journal:
        for decision in story.decisions:
            assert story.state.last is not None
            journal.record("m", story.state.last, decision, mode="active")
    return story


def test_journal_gives_back_what_was_recorded(tmp_path: Path) -> None:
    """Observations and decisions are equal after the round trip, infinities and enums included."""
    story = _story_in(tmp_path / "j.sqlite3")
    with Journal(tmp_path / "j.sqlite3", read_only=True) as journal:
        entries = list(journal.entries("m"))
        assert journal.models() == ["m"]
    assert [entry.decision for entry in entries] == story.decisions
    assert entries[-1].observation == story.state.last


def test_journal_gives_the_newest_in_order(tmp_path: Path) -> None:
    """``last`` cuts off the old end."""
    story = _story_in(tmp_path / "j.sqlite3")
    with Journal(tmp_path / "j.sqlite3", read_only=True) as journal:
        assert [e.decision for e in journal.entries("m", last=3)] == story.decisions[-3:]


def test_journal_shows_an_action_that_never_ended(tmp_path: Path) -> None:
    """A controller that died in the middle leaves a begun action."""
    story = _story_in(tmp_path / "j.sqlite3")
    with Journal(tmp_path / "j.sqlite3") as journal:
        first = journal.begin("m", story.changes[0], at_s=1.0)
        journal.begin("m", story.changes[0], at_s=2.0)
        journal.end(first, ACTION, at_s=1.5)
        ended, open_ = journal.actions("m")
    assert (ended.ended_at_s, open_.ended_at_s) == (1.5, None)
    assert ended.result is not None
    assert (ended.result["kind"], ended.result["outcome"]) == ("in-place", "applied")


def test_prune_forgets_old_ticks_but_none_with_an_action(tmp_path: Path) -> None:
    """What was done stays explained."""
    story = _story_in(tmp_path / "j.sqlite3")
    acted = story.changes[0]
    with Journal(tmp_path / "j.sqlite3") as journal:
        assert story.state.last is not None
        journal.end(journal.begin("m", acted, at_s=1.0), ACTION, at_s=2.0)
        # Every row of this story was recorded with the last look's tick id and time; the acted
        # one is recorded again under its own.
        seen = replace(story.state.last, tick_id=acted.tick_id, at_s=acted.at_s)
        journal.record("m", seen, acted, mode="active")
        journal.prune(before_s=story.at_s + 1)
        assert [entry.decision for entry in journal.entries("m")] == [acted]


def test_journal_that_is_not_there_or_no_database(tmp_path: Path) -> None:
    """Reading says how to start; a foreign file is not overwritten."""
    with pytest.raises(JournalError, match="not there"):
        Journal(tmp_path / "none.sqlite3", read_only=True)
    (tmp_path / "text").write_text("this is no database, but a long enough text")
    with pytest.raises(JournalError):
        Journal(tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("this is no database")


def test_explain_shows_inputs_formula_guard_and_the_next_time() -> None:
    """The numbers in the text are those of the decision."""
    story = Story().passes(10, load_rps=100).passes(2, load_rps=1500)
    decision = story.changes[0]
    text = "\n".join(explain.lines("m", decision, now_s=decision.at_s + 1))
    assert f"[{decision.reason.name}]" in text
    assert f"= {decision.terms['need_rps']:.1f} req/s" in text
    assert f"1 × instance: {decision.terms['capacity_1_rps']:7.1f} req/s  too little" in text
    assert "guard     nothing was clamped" in text
    assert "may change again" in text


def test_explain_of_missing_data_says_so() -> None:
    """No formula is made up where nothing was known."""
    story = Story()
    decision = story.tick(0, missing=("counters",))
    assert "hold while anything needed is missing" in "\n".join(
        explain.lines("m", decision, now_s=decision.at_s)
    )


OLD_TABLES = """
CREATE TABLE tick (
    id INTEGER PRIMARY KEY, tick_id TEXT NOT NULL, model TEXT NOT NULL, at_s REAL NOT NULL,
    mode TEXT NOT NULL, observation TEXT NOT NULL, decision TEXT NOT NULL
);
CREATE INDEX tick_model ON tick (model, id);
CREATE TABLE action (
    id INTEGER PRIMARY KEY, tick_id TEXT NOT NULL, model TEXT NOT NULL, begun_at_s REAL NOT NULL,
    desired TEXT NOT NULL, ended_at_s REAL, result TEXT
);
CREATE INDEX action_model ON action (model, id);
"""


def _old_journal(path: Path) -> Story:
    """A file as the first release wrote it, without the fields that it did not know."""
    story = Story().passes(10, load_rps=100).passes(4, load_rps=1500)
    assert story.state.last is not None
    seen = codec.plain(story.state.last)
    for key in ("versions", "arrivals", "cpu_fraction", "frozen", "least_batch_size"):
        del seen[key]
    with sqlite3.connect(path) as db:
        db.executescript(OLD_TABLES)
        for decision in story.decisions:
            db.execute(
                "INSERT INTO tick (tick_id, model, at_s, mode, observation, decision)"
                " VALUES (?, 'm', ?, 'active', ?, ?)",
                (
                    decision.tick_id,
                    decision.at_s,
                    json.dumps(seen),
                    json.dumps(codec.plain(decision)),
                ),
            )
        db.execute(
            "INSERT INTO action VALUES (1, 't3', 'm', 1.0, ?, 2.0, ?)",
            (
                json.dumps(codec.plain(story.changes[0].desired)),
                json.dumps({"kind": "reload", "outcome": "applied"}),
            ),
        )
    db.close()
    return story


@pytest.mark.parametrize("read_only", [True, False])
def test_journal_of_the_first_release_is_brought_up_to_date(
    tmp_path: Path, read_only: bool
) -> None:
    """Every tick and action is there, once; such a run says no policy."""
    story = _old_journal(tmp_path / "j")
    for _ in range(2):
        with Journal(tmp_path / "j", read_only=read_only) as journal:
            assert [e.decision for e in journal.entries("m")] == story.decisions
            assert {e.mode for e in journal.entries("m")} == {"active"}
            (tried,) = journal.tried("m", since_s=0)
            assert (tried.settings, tried.reload) == (story.changes[0].desired, True)
            (run,) = journal.runs()
            assert (run.policies, journal.models()) == ({}, ["m"])
    with Journal(tmp_path / "j") as journal:
        journal.record("m", _seen(story), story.last, mode="advisory")
        assert [run.mode for run in journal.runs()] == ["active", "advisory"]
        assert len(list(journal.entries("m"))) == len(story.decisions) + 1


@pytest.mark.parametrize("read_only", [True, False])
def test_journal_of_a_newer_format_is_refused(tmp_path: Path, read_only: bool) -> None:
    """It is not written over, and not misread."""
    with sqlite3.connect(tmp_path / "j") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(JournalError, match="format 99"):
        Journal(tmp_path / "j", read_only=read_only)
    assert (tmp_path / "j").read_bytes() == before


def test_journal_gives_the_tick_by_id_and_by_time(tmp_path: Path) -> None:
    """What explain asks for."""
    story = Story().passes(6, load_rps=100)
    with Journal(tmp_path / "j") as journal:
        for decision in story.decisions:
            seen = replace(_seen(story), tick_id=decision.tick_id, at_s=decision.at_s)
            journal.record("m", seen, decision, mode="active")
        by_id = journal.entry("m", "t3")
        by_time = list(journal.entries("m", last=1, until_s=story.decisions[2].at_s + 0.5))
        assert by_id is not None
        assert by_id.decision == story.decisions[3]
        assert [e.decision for e in by_time] == [story.decisions[2]]
        assert journal.entry("other", "t3") is None


def test_journal_keeps_what_was_learnt(tmp_path: Path) -> None:
    """The newest of each model; nothing is empty."""
    with Journal(tmp_path / "j") as journal:
        assert journal.learnt("m") == {}
        journal.save_learnt({"m": {"a": 1.5}, "n": {}}, at_s=1.0)
        journal.save_learnt({"m": {"a": [2.5, float("inf")]}}, at_s=2.0)
    with Journal(tmp_path / "j", read_only=True) as journal:
        assert journal.learnt("m") == {"a": [2.5, float("inf")]}


def test_begin_makes_what_waits_durable_first(tmp_path: Path) -> None:
    """Another process sees the look before it can see the action."""
    story = Story().passes(3, load_rps=100)
    with Journal(tmp_path / "j") as journal:
        journal.start_run(at_s=0, mode="active", policies={}, rules={})
        journal.append("m", Looked(seen=_seen(story)), story.last, at_s=1.0)
        with Journal(tmp_path / "j", read_only=True) as other:
            assert list(other.entries("m")) == []
            journal.begin("m", story.last, at_s=1.0)
            assert [e.decision for e in other.entries("m")] == [story.last]
            assert len(other.actions("m")) == 1


def _seen(story: Story) -> Observation:
    assert story.state.last is not None
    return story.state.last


FLOATS = st.floats(allow_nan=False)
FEW = hypothesis.settings(max_examples=30, deadline=None)
SEEN = st.builds(
    Observation,
    statistics=st.none()
    | st.builds(
        ModelStatistics,
        batches=st.dictionaries(st.integers(1, 64), st.builds(BatchStat), max_size=3),
    ),
)
DECIDED = st.builds(Decision, terms=st.dictionaries(st.text(max_size=5), st.floats(), max_size=3))
EVENTS = st.one_of(
    st.builds(
        Started,
        learnt=st.dictionaries(st.text(max_size=3), FLOATS, max_size=2),
    ),
    st.builds(Begun, change=st.builds(InFlight)),
    st.builds(Ended, change=st.none() | st.builds(Applied)),
)


@FEW
@given(event=EVENTS)
def test_events_are_equal_after_the_round_trip(event: Event) -> None:
    """Whatever their fields hold; compared as text, where a NaN equals itself."""
    data = codec.unpacked(codec.packed(codec.text(event)))
    assert codec.text(codec.event(codec.kind_of(event), data)) == codec.text(event)


@FEW
@given(seen=SEEN, decided=DECIDED)
def test_looks_are_equal_after_the_round_trip(seen: Observation, decided: Decision) -> None:
    """Observation and decision, infinities included."""
    data = codec.unpacked(codec.packed(codec.look(seen, decided)))
    assert codec.text(codec.observation(data["seen"])) == codec.text(seen)
    assert codec.text(codec.decision(data["decision"])) == codec.text(decided)
