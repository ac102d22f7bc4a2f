"""Freeze, rollback and restart, as the core decides them."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.decide import Conch
from control.core.judgement.safety import Safety
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.reasons import Clamp, Reason
from control.core.step import Looked, Started, step
from control.core.types import Observation
from tests.unit.guarded import first
from tests.unit.story import Story, a_policy, held_for, in_flight, settings

GOOD, BAD = settings(2, batch=8), settings(2, batch=32)


def _look(story: Story, load_rps: float) -> Observation:
    """The look after one more second, without a decision."""
    story.at_s += 1.0
    story._serve(load_rps)
    return Observation(
        at_s=story.at_s,
        tick_id="t",
        counters=replace(story.counters, pending=story.pending),
        statistics=story.statistics,
        applied=story.applied,
    )


def test_a_new_controller_does_not_scale_down_before_a_whole_quiet_time() -> None:
    """The old one was about to; what it knew of quiet died with it, what it tried did not."""
    policy = a_policy(idle_cost=held_for(40.0), load_s=0.1)
    story = Story(policy=policy, applied=settings(3), obeys=False)
    story.passes(40, load_rps=50.0)
    assert story.last.reason is Reason.SCALE_DOWN
    failed = Applied(
        at_s=story.at_s,
        settings=settings(4),
        before=settings(3),
        reload=False,
        ok=False,
    )
    state, nothing = step(Conch(), story.state, Started(at_s=story.at_s, changes=(failed,)), policy)
    assert nothing is None
    decisions = []
    for _ in range(40):
        state, decision = step(Conch(), state, Looked(seen=_look(story, 50.0)), policy)
        assert decision is not None
        decisions.append(decision)
    fewer = next(d for d in decisions if d.changes)
    assert fewer.reason is Reason.SCALE_DOWN
    assert fewer.at_s - decisions[0].at_s >= 8.0  # two are idle
    assert state.changes == (failed,)


def _seen(**changes: object) -> Observation:
    base = Observation(at_s=5000.0, tick_id="t", counters=None, statistics=None, applied=BAD)
    return replace(base, **changes)


def _worse(**changes: object) -> ControlState:
    return ControlState(safety=Safety(undo=GOOD, last_good=GOOD), **changes)


def test_a_rollback_is_due_until_it_is_done() -> None:
    """The last good settings; nothing once they are in force, or where nothing is known."""
    policy = a_policy()
    decision = first(_worse(), _seen(), policy)
    assert decision is not None
    assert (decision.reason, decision.applied, decision.desired) == (Reason.ROLLBACK, BAD, GOOD)
    assert first(_worse(), _seen(applied=GOOD), policy) is None
    assert first(ControlState(), _seen(), policy) is None


def test_a_rollback_that_cannot_be_now_leaves_the_rest_to_go_on() -> None:
    """A change is in flight, or the last rollback has just failed."""
    policy = a_policy(cooldown_s=5.0)
    assert first(_worse(in_flight=in_flight(GOOD)), _seen(), policy) is None
    failed = Applied(at_s=4999.0, settings=GOOD, reload=True, ok=False, undo=True)
    assert first(_worse(changes=(failed,)), _seen(), policy) is None
    again = first(_worse(changes=(failed,)), _seen(at_s=5004.0), policy)
    assert again is not None
    assert again.reason is Reason.ROLLBACK


def test_a_frozen_model_is_left_alone() -> None:
    """Also in settings that are worse, and whatever the load."""
    decision = first(_worse(), _seen(frozen=True), a_policy())
    assert decision is not None
    assert decision.reason is Reason.HOLD_FROZEN
    assert not decision.changes
    story = Story().passes(10, load_rps=2000.0)
    seen = replace(_look(story, 2000.0), frozen=True)
    _, frozen = step(Conch(), story.state, Looked(seen=seen), story.policy)
    assert frozen is not None
    assert frozen.reason is Reason.HOLD_FROZEN


def test_a_model_whose_file_was_edited_is_left_alone() -> None:
    """Any change would load the edit or overwrite it; a freeze says so first."""
    decision = first(_worse(), _seen(edited=True), a_policy())
    assert decision is not None
    assert decision.reason is Reason.HOLD_EDITED
    assert not decision.changes
    both = first(_worse(), _seen(edited=True, frozen=True), a_policy())
    assert both is not None
    assert both.reason is Reason.HOLD_FROZEN


def test_a_rollback_is_clamped_by_the_memory() -> None:
    """A reload that does not fit would take the model down."""
    seen = _seen(memory_free_bytes=10, memory_copy_bytes=10)
    assert first(_worse(), seen, a_policy()) is None
    roomy = replace(seen, memory_free_bytes=24)
    decision = first(_worse(), roomy, a_policy())
    assert decision is not None
    assert Clamp.MEMORY not in decision.clamps


def test_what_was_taken_back_is_no_good_settings_to_a_new_controller() -> None:
    """It knows of nothing but the change that the server did not survive."""
    back = Applied(at_s=5000.0, settings=GOOD, before=BAD, reload=True, ok=True, undo=True)
    safety = ControlState().tried(back).safety
    assert (safety.last_good, safety.watch) == (GOOD, None)
