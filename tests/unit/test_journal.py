"""The journal: what goes in comes out, and an unfinished action is visible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from control import explain
from control.actuator import Action, Outcome
from control.journal import Journal, JournalError
from serving.model_config import ReloadKind
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
