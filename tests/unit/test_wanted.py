"""Stories in which the instances that are wanted went wrong once: each has its own test."""

from __future__ import annotations

from dataclasses import replace

from control.core.judgement.judge import Watch
from control.core.judgement.safety import Block
from control.core.memory import restart
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from tests.unit.story import Story, a_policy, settings


def _out_of_reach(**changes: object) -> Policy:
    """ℓ(1) is 5 ms."""
    return a_policy(slo_s=0.004, **changes)


def test_an_slo_that_no_count_keeps_is_no_reason_to_let_the_queue_grow() -> None:
    """2,000/s take three instances at 667/s each; they are added though p99 is lost anyway."""
    story = Story(policy=_out_of_reach(max_instances=8, cores=8)).passes(30, load_rps=20)
    assert story.applied.instances <= 2
    story.passes(60, load_rps=2000)
    assert story.applied.instances >= 4
    assert story.pending == 0.0
    assert Reason.AT_LIMIT in story.reasons  # and said


def test_an_slo_out_of_reach_does_not_hold_instances_for_ever() -> None:
    """At a load that one carries twice over, one is left."""
    story = Story(policy=_out_of_reach(), applied=settings(4)).passes(200, load_rps=20)
    assert story.applied.instances == 1


def test_an_slo_in_reach_is_not_said_to_be_out_of_it() -> None:
    """The same load with time enough."""
    story = Story(policy=a_policy(max_instances=8, cores=8)).passes(60, load_rps=2000)
    assert Reason.AT_LIMIT not in story.reasons


def test_every_term_is_a_number_where_nothing_is_carried() -> None:
    """Single requests miss the SLO by the delay alone, any other batching has an endless gain."""
    applied = settings(1, delay_s=0.06)
    story = Story(policy=a_policy(rebatch=True), applied=applied, obeys=False).measured()
    story.passes(40, load_rps=100)
    gains = [d.terms["plan_gain"] for d in story.decisions if "plan_gain" in d.terms]
    assert gains
    assert max(gains) == 1e6


def test_a_failed_look_now_and_then_does_not_hold_instances_for_ever() -> None:
    """Instances that load for 10 s are let go after 50 s; one look in 20 s fails."""
    story = Story(policy=a_policy(load_s=10.0), applied=settings(4))
    for second in range(200):
        story.tick(50, missing=("counters",) if second % 20 == 19 else ())
    assert story.applied.instances == 1


def test_a_reset_look_does_not_act_on_what_was_before_it() -> None:
    """The rate of a second ago is there still, but the queue of now belongs to no rate."""
    story = Story(applied=settings(1)).passes(30, load_rps=600)
    story.obeys = False
    story.counters = replace(story.counters, success=0.0)
    assert story.tick(5000).reason is Reason.HOLD_NO_DATA
    assert story.tick(5000).changes


def test_a_clock_that_is_set_back_does_not_freeze_what_waits_for_a_time() -> None:
    """An hour back: neither a watch, nor a block, nor the next plan waits for an hour."""
    story = Story(policy=a_policy(rebatch=True), obeys=False).measured().passes(30, load_rps=100)
    bad, good = settings(3), settings(1)
    now_s = story.at_s
    safety = replace(
        story.state.safety,
        changed_s=now_s - 1,
        watch=Watch(since_s=now_s - 1, settings=good, good=bad),
        blocked=(Block(settings=bad, until_s=now_s + 600),),
    )
    story.state = replace(story.state, safety=safety, planned_s=now_s, changes=())
    story.at_s -= 3600
    story.passes(45, load_rps=100)
    assert story.state.safety.watch is None
    assert story.state.planned_s <= story.at_s
    assert all(block.until_s <= story.at_s + 600 for block in story.state.safety.blocked)
    assert any("plan_gain" in d.terms for d in story.decisions[-40:])


def test_a_model_without_a_batch_axis_is_scaled_and_never_rebatched() -> None:
    """max_batch_size 0: 200/s an instance."""
    story = Story(policy=a_policy(rebatch=True), applied=settings(1, batch=0)).passes(
        60, load_rps=450
    )
    assert story.applied.instances >= 3
    assert story.applied.max_batch_size == 0
    assert story.pending == 0.0


def test_a_count_that_the_policy_fixes_is_never_changed() -> None:
    """min = max: whatever the load, and without an exception."""
    story = Story(policy=a_policy(min_instances=2, max_instances=2), applied=settings(2))
    for load in (0, 5000, 10, 300):
        story.passes(20, load_rps=load)
    assert story.changes == []


def test_a_long_time_without_a_request_and_then_a_jump() -> None:
    """What was learnt is still known, and the first look at the load acts."""
    story = Story().passes(30, load_rps=600).passes(900, load_rps=0)
    assert story.applied.instances == 1
    assert len(story.state.intervals) <= 41
    assert story.tick(2000).changes
    assert Clamp.PROBE not in story.last.clamps


def test_a_controller_that_begins_anew_under_load_shrinks_nothing() -> None:
    """Its first looks can only hold, or add."""
    before = Story(applied=settings(3)).passes(100, load_rps=1500)
    after = Story(
        applied=settings(3),
        at_s=before.at_s,
        state=restart.restored(changes=(), learnt={}, at_s=before.at_s),
        counters=before.counters,
        statistics=before.statistics,
    ).passes(14, load_rps=100)
    assert after.changes == []
    assert after.decisions[0].reason is Reason.HOLD_NO_DATA


def test_in_a_panic_the_mean_of_the_load_counts() -> None:
    """What waits is evidence: bursty arrivals leave the lower bound far below the mean."""
    story = Story(obeys=False)
    for _ in range(10):
        story.passes(1, load_rps=100).passes(1, load_rps=500)
    story.tick(620)
    assert story.last.terms["drain_s"] == 0.0
    assert not story.last.changes  # the lower bound is not sure, and nothing waits
    story.pending = 60.0
    story.tick(660)
    assert story.last.terms["load_rps"] < story.last.terms["capacity_1_rps"]
    assert story.last.reason is Reason.SCALE_UP_BACKLOG


def test_both_copies_on_the_cores_of_one_are_no_faster() -> None:
    """A backlog is met by a second copy, but in place on cores that one copy fills."""
    ways = []
    for cores in (4, 2):
        story = Story(policy=a_policy(max_instances=2, cores=cores), obeys=False)
        story.passes(20, load_rps=200)
        story.pending = 60.0
        story.tick(900)
        assert story.last.reason is Reason.SCALE_UP_BACKLOG
        ways.append(story.last.fresh)
    assert ways == [True, False]
