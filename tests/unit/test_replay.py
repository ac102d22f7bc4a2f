"""A journal replays to its own decisions, through restarts, changes and what was forgotten."""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import root as cli
from control.core.judgement.judge import Verdict, Watch
from control.core.judgement.period import Period
from control.core.judgement.safety import Safety
from control.core.memory import restart
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules import rule_named
from control.core.service.curves import ServiceTime
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision, Observation
from control.journal import checkpoint, codec, explain, replay
from control.journal import writer as journals
from control.journal.reader import Run
from control.journal.writer import Journal
from tests.unit.story import Story, a_policy, held_for, in_flight, settings
from tests.unit.test_journal import ACTION

RULE = rule_named("conch")
POLICY = a_policy(idle_cost=held_for(20.0), cooldown_s=5.0, rebatch=True)


class Recorder:
    """A loop without a server: a story's looks go to the core, and every event to the journal."""

    def __init__(self, journal: Journal, story: Story, policy: Policy = POLICY) -> None:
        self.journal, self.story, self.policy = journal, story, policy
        self.state = ControlState()
        self.decisions: list[Decision] = []

    def starts(self) -> None:
        """A controller begins, and knows what the journal kept."""
        now_s = self.story.at_s
        self.journal.start_run(
            at_s=now_s, mode="active", policies={"m": self.policy}, rules={"m": RULE}, tick_s=1.0
        )
        self.state = ControlState()
        tried = self.journal.tried("m", since_s=now_s - 3600)
        learnt = self.journal.learnt("m")
        self.takes(Started(at_s=now_s, changes=tried, learnt=learnt))

    def takes(self, event: Event) -> Decision | None:
        """One event."""
        self.state, decided = step(RULE, self.state, event, self.policy)
        self.journal.append("m", event, decided, at_s=self.story.at_s)
        return decided

    def passes(self, seconds: int, load_rps: float) -> None:
        """So many looks; a change takes effect at the next one."""
        for _ in range(seconds):
            seen = _look(self.story, load_rps)
            decided = self.takes(Looked(seen=seen))
            assert decided is not None
            self.decisions.append(decided)
            if decided.changes and self.state.in_flight is None:
                self._apply(decided)
        self.journal.flush()

    def _apply(self, decided: Decision) -> None:
        wanted = decided.desired
        assert wanted is not None
        number = self.journal.begin("m", decided, at_s=self.story.at_s)
        self.takes(Begun(change=in_flight(wanted)))
        change = Applied(
            at_s=self.story.at_s, settings=wanted, reload=False, ok=True, before=decided.applied
        )
        self.takes(Ended(change=change))
        self.journal.end(number, ACTION, at_s=self.story.at_s, change=change)
        self.story.applied = wanted


def _look(story: Story, load_rps: float) -> Observation:
    """The story's next look; what the story itself would decide is left out."""
    story.obeys, story.state = False, ControlState()
    story.tick(load_rps)
    assert story.state.last is not None
    return story.state.last


def _record(path: Path) -> Recorder:
    """Two runs of more than 100 looks each: up, down, a jump, a restart, an idle end."""
    with Journal(path) as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        recorder.starts()
        recorder.passes(20, 100)
        recorder.passes(30, 900)
        recorder.passes(60, 100)
        recorder.starts()
        recorder.passes(15, 300)
        recorder.passes(10, 1500)
        recorder.passes(60, 50)
        recorder.passes(20, 0)
    return recorder


def _runs(path: Path, rule: Any = None) -> list[tuple[Run, replay.Replayed]]:
    with Journal(path, read_only=True) as journal:
        done = []
        for run in journal.runs():
            own, policy = replay.rule_of(run, "m")
            records = journal.records(run.id, "m")
            done.append((run, replay.replay(records, rule or own, policy, own=rule is None)))
        return done


def test_replay_gives_every_decision_again(tmp_path: Path) -> None:
    """More than 200 looks through SQLite, with changes and a restart: equal bit by bit."""
    recorder = _record(tmp_path / "j")
    assert any(d.changes for d in recorder.decisions)
    done = _runs(tmp_path / "j")
    assert sum(r.looks for _, r in done) == len(recorder.decisions) > 200
    assert [(r.equal, r.forgotten, r.differences) for _, r in done] == [
        (110, 0, ()),
        (105, 0, ()),
    ]
    assert all(r.original_instance_s == r.replayed_instance_s > 100 for _, r in done)


def test_replay_finds_a_decision_that_was_changed(tmp_path: Path) -> None:
    """One bit of one term is enough."""
    _record(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        entry = next(iter(journal.entries("m", last=50)))
        terms = {**entry.decision.terms, "fast_rps": entry.decision.terms["fast_rps"] + 1e-9}
        forged = codec.look(entry.observation, replace(entry.decision, terms=terms))
        journal._execute("UPDATE event SET data = ? WHERE id = ?", (codec.packed(forged), entry.id))
    (_, first), (_, second) = _runs(tmp_path / "j")
    assert first.equal == first.looks
    assert [d.id for d in second.differences] == [entry.id]
    found = second.differences[0]
    assert list(replay.differing(found.original, found.replayed)) == ["terms.fast_rps"]


def test_replay_begins_at_a_checkpoint_where_the_start_was_forgotten(tmp_path: Path) -> None:
    """The looks after it are exact; acted ones before it are kept, and known to have no memory."""
    with Journal(tmp_path / "j") as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        recorder.starts()
        recorder.passes(20, 100)
        recorder.passes(30, 900)
        journal.checkpoint("m", recorder.state, at_s=recorder.story.at_s)
        recorder.passes(60, 100)
        journal.prune(before_s=recorder.story.at_s - 20)
    ((_, done),) = _runs(tmp_path / "j")
    acted = sum(d.changes for d in recorder.decisions[:50])
    assert (done.forgotten, done.looks, done.equal) == (acted, 60, 60)


def test_replay_knows_nothing_after_a_gap(tmp_path: Path) -> None:
    """Events that a full disk has cost are not passed over in silence."""
    with Journal(tmp_path / "j") as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        recorder.starts()
        recorder.passes(20, 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journals, "MOST_WAITING", 5)
            recorder.passes(7, 100)
    ((_, done),) = _runs(tmp_path / "j")
    assert (done.looks, done.equal) == (20, 20)
    assert done.forgotten > 0


def test_another_rule_sees_the_same_looks_and_decides_its_own(tmp_path: Path) -> None:
    """Nobody is asked to be equal; what each wanted is counted."""
    _record(tmp_path / "j")
    for _, done in _runs(tmp_path / "j", rule_named("static", {"count": 4})):
        assert done.equal == 0
        assert done.replayed_instance_s == pytest.approx(4 * done.looks, abs=8)  # 1 at the start
        assert done.original_instance_s < done.replayed_instance_s


def test_checkpoint_gives_the_same_memory_back(tmp_path: Path) -> None:
    """Through JSON text; only types of the core are made."""
    recorder = _record(tmp_path / "j")
    data = json.loads(json.dumps(checkpoint.pack(recorder.state)))
    assert checkpoint.unpack(data) == recorder.state
    for evil in (["of", "os:system", {}], ["of", "control.core.types:math", {}], ["x"], 3):
        with pytest.raises(ValueError, match=r".+"):
            checkpoint.unpack(evil)


def test_checkpoint_names_every_type_that_is_remembered() -> None:
    """By the annotations, whatever the memory holds; each name is of one type."""
    named = set(checkpoint.KINDS.values())
    assert len(named) == len(checkpoint.KINDS)
    for kind in named:
        for found in _remembered(kind):
            assert found in named, f"{found.__name__}, a field of {kind.__name__}"


def _remembered(kind: type) -> list[type]:
    """The records and enums in the fields of one, those in containers, too."""
    hints = typing.get_type_hints(kind, localns={"ServiceTime": ServiceTime})
    if dataclasses.is_dataclass(kind):
        hints = {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}
    pending, found = list(hints.values()), []
    while pending:
        hint = pending.pop()
        pending += typing.get_args(hint)
        record = dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")
        if isinstance(hint, type) and (record or issubclass(hint, enum.Enum)):
            found.append(hint)
    return found


STORED = Path(__file__).parent / "stored" / "journal_1.sqlite"
"""Written on 2026-11-30, pruned: its second run begins with a checkpoint that names modules."""


def test_journal_of_an_older_version_opens_and_replays(tmp_path: Path) -> None:
    """From its checkpoint on; what this version decides otherwise is counted."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(STORED.read_bytes())
    done = _runs(path)[-1][1]
    assert (done.looks, done.forgotten) == (55, 0)
    with Journal(path, read_only=True) as journal:
        entries = list(journal.entries("m", last=5))
        told = [explain.lines("m", e.decision, now_s=2000.0, seen=e.observation) for e in entries]
        assert len(told) == 5
        assert any("forecast_rps" in line for line in told[0])  # in its own words
        assert any("1 × instance" in line for line in told[0])
        assert len(journal.tried("m", since_s=0.0)) == 5
        assert restart.restored(changes=(), learnt=journal.learnt("m"), at_s=2000.0).learnt


def test_what_an_older_judge_remembered_is_read() -> None:
    """Means and predictions are left out, and *better* is no praise any more."""
    watch = Watch(since_s=1.0, settings=settings(2), good=settings(1), before=Period(span_s=3.0))
    state = ControlState(safety=Safety(watch=watch, verdict=Verdict.NEUTRAL))
    packed = checkpoint.pack(state)
    safety = packed[2]["safety"][2]
    safety["predicted"] = ["tuple", [checkpoint._pack(settings(2)), 0.02]]
    safety["verdict"] = ["enum", "Verdict", "BETTER"]
    safety["watch"][2] |= {"predicted_s": 0.02, "burning": False}
    before = safety["watch"][2]["before"][2]
    before |= {"timed": 3.0, "request_s": 0.1, "busy_s": 0.1, "batches": 3.0, "rows": 9.0}
    for new in ("sizes", "instance_s", "cpu_s", "cpu_span_s"):
        del before[new]
    assert checkpoint.unpack(packed) == state


def _cli(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["control", "replay", *arguments])


def test_command_counts_and_fails_on_a_difference(tmp_path: Path) -> None:
    """All equal is exit 0; a table of what another rule would do; JSON for programs."""
    path = str(tmp_path / "j")
    _record(tmp_path / "j")
    data = json.loads(_cli(path, "--json").stdout)
    assert [row["equal"] for row in data["runs"]] == [row["looks"] for row in data["runs"]]
    other = _cli(path, "--rule", "static:count=4", "--run", "1")
    assert other.exit_code == 0, other.output
    assert "static" in other.stdout
    (tmp_path / "p.yaml").write_text("version: 1\ndefaults:\n  slo: 50ms\n  max_instances: 1\n")
    by_policy = json.loads(_cli(path, "--policy", str(tmp_path / "p.yaml"), "--json").stdout)
    assert not by_policy["exact"]
    assert sum(len(row["differences"]) for row in by_policy["runs"]) > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rule", "nobody"), "not known"),
        (("--rule", "static:count"), "must be KEY=VALUE"),
        (("--run", "99"), "not in the journal"),
        (("--model", "other"), "can be replayed"),
    ],
)
def test_command_refuses_what_is_not_there(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    """With the way on, and no traceback."""
    _record(tmp_path / "j")
    result = _cli(str(tmp_path / "j"), *arguments)
    assert says in f"{result.output}{result.exception}"
    assert result.exit_code != 0


def test_replay_takes_a_value_that_nobody_can_decide_on_for_a_gap(tmp_path: Path) -> None:
    """It is damaged, and still reads as a number; the looks of the next run are exact."""
    _record(tmp_path / "j")
    with Journal(tmp_path / "j", read_only=True) as journal:
        run = journal.runs()[0]
        records = list(journal.records(run.id, "m"))
    endless = replace(POLICY, slo_target_fraction=1.0)  # nothing may be late: a division by zero
    done = replay.replay(records, RULE, endless)
    assert done.forgotten > 0
    assert done.looks + done.forgotten == sum(isinstance(r.event, Looked) for r in records)
