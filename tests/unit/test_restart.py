"""What a controller that starts knows of what the one before it saved, and how old that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from control import life
from control.core.decision.decide import Conch
from control.core.load.cache_use import CacheUse, Trials
from control.core.memory.changes import Applied
from control.core.memory.restart import to_plain
from control.core.memory.state import ControlState
from control.core.reasons import Reason
from control.core.service.slow_seconds import SlowSeconds
from control.core.service.versions import GUESS
from control.core.step import Started, step
from control.journal import replay
from control.journal.writer import Journal
from control.loop import ControlLoop
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE, Story, a_policy, settings
from tests.unit.test_quality import a_story, steps
from tests.unit.test_replay import POLICY, Recorder

SAVED_S = 10_000.0
DAY_S = 86_400.0


def restarted(state: ControlState, *, away_s: float, **changes: object) -> ControlState:
    """The memory of a controller that starts so long after this one was saved, through JSON."""
    kept = json.loads(json.dumps(to_plain(state, at_s=SAVED_S)))
    event = Started(at_s=SAVED_S + away_s, learnt={**kept, **changes})
    return step(Conch(), ControlState(), event, a_policy())[0]


def seen_at(state: ControlState, instances: int, service_s: float) -> ControlState:
    """The memory with 20 busy seconds of single requests that took so long, at that count."""
    stat = BatchStat(count=round(20 * instances / service_s), busy_s=20.0 * instances)
    executed = ModelStatistics(batches={1: stat})
    learnt = state.learnt.absorb(executed, instances=instances, threads=1, span_s=20.0)
    return ControlState(learnt=learnt, versions=state.versions)


def test_evidence_is_older_by_the_time_away() -> None:
    """Two instances took 20 ms; what one takes today says less of that than it did yesterday."""
    before = seen_at(seen_at(ControlState(), 1, 0.010), 2, 0.020)

    def two_take(away_s: float) -> float:
        after = seen_at(restarted(before, away_s=away_s), 1, 0.010)
        curve = after.learnt.at(2, threads=1, cores=4)
        assert curve is not None
        return curve.of(1)

    assert two_take(0.0) == pytest.approx(0.020, rel=0.05)
    assert two_take(DAY_S) < 0.95 * two_take(0.0)
    assert restarted(before, away_s=DAY_S).learnt.clock_s == before.learnt.clock_s + DAY_S


@pytest.mark.parametrize(
    ("away_s", "changes"),
    [
        pytest.param(-3600.0, {}, id="a clock that was set back"),
        pytest.param(DAY_S, {"saved_s": None}, id="an older journal"),
        pytest.param(DAY_S, {"saved_s": float("nan")}, id="damaged"),
        pytest.param(DAY_S, {"saved_s": "yesterday"}, id="of another type"),
        pytest.param(DAY_S, {"saved_s": True}, id="no time"),
    ],
)
def test_a_time_away_that_is_not_known_is_none(away_s: float, changes: dict[str, Any]) -> None:
    """What was learnt is kept as it was."""
    before = seen_at(ControlState(), 1, 0.010)
    assert restarted(before, away_s=away_s, **changes).learnt == before.learnt


def test_what_an_older_conch_saved_is_read() -> None:
    """It says neither when it was saved nor anything but the service times."""
    before = seen_at(ControlState(), 1, 0.010)
    without = replace(before.learnt, slow=SlowSeconds())
    older = {
        name: value
        for name, value in to_plain(before, at_s=SAVED_S).items()
        if name in ("schema", "clock_s", "sibling", "seen")
    }
    event = Started(at_s=SAVED_S + DAY_S, learnt=older)
    assert step(Conch(), ControlState(), event, a_policy())[0] == replace(before, learnt=without)


def restart(story: Story) -> None:
    """Another controller takes over, an hour later; it knows what the one before it saved."""
    kept = json.loads(json.dumps(to_plain(story.state, at_s=story.at_s)))
    story.at_s += 3600.0
    event = Started(at_s=story.at_s, learnt=kept)
    story.state, _ = step(Conch(), ControlState(), event, story.policy)


def test_a_version_that_was_no_cheaper_is_not_tried_again_after_a_restart() -> None:
    """It took as long as the better one; a controller that guessed would probe it once more."""
    story = a_story(TRUE, TRUE.scaled(1.02)).passes(20, load_rps=200).passes(60, load_rps=900)
    assert [reason for reason, _ in steps(story)] == [Reason.QUALITY_DOWN, Reason.QUALITY_UP]
    known, begin = story.state.versions.others[2], len(story.decisions)
    restart(story)
    assert story.state.versions.others[2].seen == known.seen
    assert story.state.versions.others[2].clock_s == known.clock_s + 3600.0
    story.pending = 0.0
    story.passes(60, load_rps=200).passes(60, load_rps=900)
    assert steps(story, begin) == []
    assert Reason.AT_LIMIT in story.reasons[begin:]


def test_service_times_stay_with_their_version_where_it_changed_meanwhile() -> None:
    """Saved while version 1 served; somebody served version 2 before the next controller looked."""
    story = a_story(TRUE, TRUE.scaled(0.5)).passes(60, load_rps=200)
    restart(story)
    story.applied = replace(story.applied, version=2)
    story.tick(200)
    one = story.state.versions.others[1].at(1, threads=1, cores=4)
    two = story.state.learnt.at(1, threads=1, cores=4)
    assert one is not None
    assert two is not None
    assert one.of(1) == pytest.approx(TRUE.of(1))
    assert two.of(1) == pytest.approx(GUESS * one.of(1))
    assert story.state.versions.learning(None) == 2  # also where a look does not tell
    restart(story)  # nobody has looked since
    assert to_plain(story.state, at_s=0.0)["version"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"others": None}, id="no list"),
        pytest.param({"others": [3, {}]}, id="no records"),
        pytest.param({"others": [{"version": True, "learnt": 1}], "version": "1"}, id="no version"),
        pytest.param({"others": [{"version": 2, "learnt": {"schema": 1}}]}, id="nothing learnt"),
    ],
)
def test_damage_to_the_other_versions_leaves_the_one_in_force(changes: dict[str, Any]) -> None:
    """A restart never fails for it, and what can be read is read."""
    before = seen_at(ControlState(), 1, 0.010)
    after = restarted(before, away_s=0.0, **changes)
    assert after.learnt == before.learnt
    assert after.versions.others == {}


TRIALS = Trials(failed_count=3, begun_s=SAVED_S - 7200.0)
ON = replace(settings(), response_cache=True)


def _trial(at_s: float) -> Applied:
    """A switch of the response cache, as the journal has it."""
    return Applied(at_s=at_s, settings=ON, before=settings(), reload=True, ok=True)


@pytest.mark.parametrize(
    ("at_s", "trials", "expected"),
    [
        pytest.param((), TRIALS, TRIALS, id="as saved"),
        pytest.param(
            (SAVED_S + 30.0,),
            TRIALS,
            Trials(failed_count=4, begun_s=SAVED_S + 30.0),
            id="one more since it was saved",
        ),
        pytest.param(
            (SAVED_S - 9.0,),
            Trials(begun_s=SAVED_S - 9.0),
            Trials(begun_s=SAVED_S - 9.0),
            id="one that has paid, and is known",
        ),
        pytest.param((SAVED_S + 999.0,), TRIALS, TRIALS, id="one that is yet to come"),
        pytest.param(
            (SAVED_S,), None, Trials(failed_count=1, begun_s=SAVED_S), id="an older journal"
        ),
        pytest.param(
            (),
            Trials(begun_s=SAVED_S + 999.0),
            Trials(begun_s=SAVED_S + 60.0),
            id="a clock that was set back",
        ),
    ],
)
def test_trials_of_the_cache_survive_a_restart(
    at_s: tuple[float, ...], trials: Trials | None, expected: Trials
) -> None:
    """By what was saved, and by the changes of the last hour that came after it."""
    state = ControlState(cache=CacheUse(trials=trials or Trials()))
    kept = json.loads(json.dumps(to_plain(state, at_s=SAVED_S)))
    if trials is None:
        del kept["cache_trials"]
    changes = tuple(_trial(each) for each in at_s)
    event = Started(at_s=SAVED_S + 60.0, learnt=kept, changes=changes)
    assert step(Conch(), ControlState(), event, a_policy())[0].cache.trials == expected


@pytest.mark.parametrize(
    "damaged",
    [None, 3, {}, {"failed_count": -1, "begun_s": 1.0}, {"failed_count": 1, "begun_s": "x"}],
)
def test_trials_that_cannot_be_read_are_none(damaged: object) -> None:
    """A restart never fails for it."""
    before = ControlState(cache=CacheUse(trials=TRIALS))
    assert restarted(before, away_s=0.0).cache.trials == TRIALS
    assert restarted(before, away_s=0.0, cache_trials=damaged).cache.trials == Trials()


class _Nobody:
    """An actuator without anything to reconcile."""

    def reconcile(self, _: str) -> None:
        """Nothing is left over."""


def test_the_loop_knows_how_long_it_was_away(tmp_path: Path) -> None:
    """Saved when one loop ends, read when the next one starts; the journal replays to the same."""
    story = Story().passes(20, load_rps=300)
    states = []
    for now_s in (SAVED_S, SAVED_S + DAY_S):
        with Journal(tmp_path / "journal") as journal:
            loop = ControlLoop(
                policies={"m": a_policy()},
                observer=cast(Any, None),
                actuator=cast(Any, _Nobody()),
                journal=journal,
                clock=lambda at_s=now_s: at_s,
            )
            journal.start_run(
                at_s=now_s, mode="active", policies=loop.policies, rules={"m": Conch()}
            )
            life.start(loop)
            states.append(loop._states["m"])
            if now_s == SAVED_S:
                loop._states["m"] = story.state
            loop.settle()
            record = list(journal.records(journal.runs()[-1].id, "m"))[-1]
            assert record.event is not None
            assert step(Conch(), ControlState(), record.event, a_policy())[0] == states[-1]
    nothing, known = states
    assert not nothing.learnt.seen
    assert known.learnt.seen == story.state.learnt.seen
    assert known.learnt.clock_s == pytest.approx(story.state.learnt.clock_s + DAY_S)


def test_replay_is_exact_after_a_time_away(tmp_path: Path) -> None:
    """The old evidence fades by the time that the journal knows, in both lives."""
    with Journal(tmp_path / "journal") as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        recorder.starts()
        recorder.passes(20, 100)
        recorder.passes(20, 900)
        journal.save_learnt(
            {"m": to_plain(recorder.state, at_s=recorder.story.at_s)},
            at_s=recorder.story.at_s,
        )
        clock_s = recorder.state.learnt.clock_s
        recorder.story.at_s += DAY_S
        recorder.starts()
        assert recorder.state.learnt.clock_s == clock_s + DAY_S
        recorder.passes(20, 300)
        recorder.passes(20, 1500)
        assert any(decision.changes for decision in recorder.decisions[-40:])
        for run in journal.runs():
            own, policy = replay.rule_of(run, "m")
            done = replay.replay(journal.records(run.id, "m"), own, policy)
            assert (done.looks, done.equal) == (40, 40)
