"""The core as stories: times and loads in, decisions out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from control.core.decision.decide import decide
from control.core.memory.state import ControlState
from control.core.reasons import Clamp, Reason
from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics
from tests.unit.story import Story, a_policy, held_for, in_flight, loaded_in, settings


def test_decide_holds_when_the_capacity_fits_the_load() -> None:
    """A light constant load changes nothing, ever."""
    story = Story().passes(200, load_rps=100)
    assert story.changes == []
    assert story.last.reason is Reason.HOLD_STEADY


def test_decide_holds_an_idle_model() -> None:
    """Nobody has asked it anything: there is no load to answer for, and nothing is missing."""
    story = Story(applied=settings(2)).passes(100, load_rps=0)
    assert story.last.reason is Reason.HOLD_IDLE
    assert story.changes == []


def test_decide_holds_while_the_first_window_fills() -> None:
    """A controller that has just started knows nothing and keeps what is there."""
    story = Story(applied=settings(3)).passes(3, load_rps=100)
    assert story.reasons[1:] == [Reason.HOLD_WARMING_UP] * 2


def test_decide_scales_up_when_the_load_rises() -> None:
    """1 instance carries about 600/s; 1,000/s need 2."""
    story = Story().passes(20, load_rps=100).passes(6, load_rps=1000)
    assert story.changes[0].reason in (Reason.SCALE_UP_LOAD, Reason.SCALE_UP_BACKLOG)
    assert story.applied.instances >= 2


def test_decide_scales_up_by_load_before_there_is_a_backlog() -> None:
    """A load just above the margin is met before anything waits."""
    story = Story().passes(20, load_rps=200)
    story.passes(10, load_rps=1.05 * story.last.terms["capacity_1_rps"])
    assert story.changes[0].reason is Reason.SCALE_UP_LOAD
    assert not story.changes[0].fresh
    assert story.pending == 0


def test_decide_takes_a_second_copy_where_the_load_saturates_the_first() -> None:
    """Little waits yet, but much would when a slow instance is loaded."""
    story = Story(obeys=False).passes(20, load_rps=200)
    story.state = replace(story.state, changes=(loaded_in(10.0),))
    story.tick(760)
    story.tick(690)
    assert story.last.fresh


def test_decide_changes_in_place_where_nothing_would_wait_for_long() -> None:
    """The same load, but an instance that loads in a tenth of a second."""
    story = Story(obeys=False).passes(20, load_rps=200)
    story.state = replace(story.state, changes=(loaded_in(0.1),))
    story.passes(16, load_rps=660)
    assert story.last.reason is Reason.SCALE_UP_LOAD
    assert not story.last.fresh


def test_decide_takes_a_second_copy_for_a_jump_that_the_windows_average_away() -> None:
    """The policy's windows are below the capacity of one, and the newest second far above it."""
    policy = a_policy(fast_window_s=8, stable_window_s=16)
    story = Story(policy=policy, obeys=False).passes(20, load_rps=300)
    story.tick(800)
    assert story.last.terms["fast_rps"] < story.last.terms["capacity_1_rps"]
    assert story.last.terms["need_rps"] > 800
    assert story.last.reason in (Reason.SCALE_UP_LOAD, Reason.SCALE_UP_BACKLOG)
    assert story.last.fresh


def test_decide_reacts_to_a_step_within_two_ticks() -> None:
    """The fast window sees a fourfold step at once."""
    story = Story().passes(20, load_rps=300).passes(2, load_rps=1200)
    assert story.changes, story.reasons[-2:]


def test_decide_scales_up_on_backlog_even_before_the_first_window_is_full() -> None:
    """A backlog that endangers the SLO is reason enough."""
    story = Story().passes(4, load_rps=1800)
    assert Reason.SCALE_UP_BACKLOG in story.reasons
    assert story.changes[0].fresh
    assert story.applied.instances > 1


def test_decide_holds_what_nobody_else_needs() -> None:
    """Without a price of idle instances all that may be are there, and none goes for quiet."""
    story = Story(policy=a_policy(idle_cost=0.0)).passes(20, load_rps=100)
    assert [(d.reason, d.desired.instances) for d in story.changes if d.desired] == [
        (Reason.SCALE_UP_RESERVE, 4)
    ]
    story.passes(600, load_rps=0.5)
    assert story.applied.instances == 4
    assert len(story.changes) == 1


def test_decide_adds_no_instance_that_adds_no_capacity() -> None:
    """Eight are allowed on two cores, of one thread each: the third would slow the others."""
    story = Story(policy=a_policy(idle_cost=0.0, max_instances=8, cores=2))
    story.passes(60, load_rps=100)
    assert story.applied.instances == 2


@pytest.mark.parametrize(("load_rps", "instances"), [(100, 1), (400, 2), (900, 3)])
def test_decide_holds_twice_the_highest_load_where_nobody_wrote_a_most(
    load_rps: float, instances: int
) -> None:
    """One carries 600/s; more than twice what ever came is worth nothing."""
    policy = a_policy(idle_cost=0.0, max_instances=4, unwritten=("max_instances",))
    story = Story(policy=policy).passes(60, load_rps=load_rps).passes(60, load_rps=50)
    assert story.applied.instances == instances


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_decide_scales_down_when_idle_instances_have_cost_as_much_as_loading(factor: float) -> None:
    """3 instances for 100/s: as long as the two idle ones are cheaper than 4 s of late requests."""
    story = Story(policy=a_policy(idle_cost=held_for(40.0) / factor), applied=settings(3))
    while not story.changes:
        story.tick(100)
    carried_rps = story.last.terms["capacity_3_rps"]
    held_s = 3600.0 * carried_rps * 4.0 / story.policy.idle_cost / 2
    assert story.at_s - 1001.0 == pytest.approx(held_s, abs=2.0)
    assert story.decisions[-2].reason is Reason.HOLD_QUIET_TIME
    assert story.last.reason is Reason.SCALE_DOWN


def test_decide_never_shrinks_when_the_peak_is_within_the_quiet_time() -> None:
    """A burst 30 s ago still counts."""
    story = Story(applied=settings(2)).passes(70, load_rps=900)
    story.passes(40, load_rps=100)
    assert all(d.reason is not Reason.SCALE_DOWN for d in story.decisions)


def test_decide_settles_and_stays_after_a_step() -> None:
    """One step up in load is answered by one change, not by an oscillation."""
    story = Story().passes(30, load_rps=300).passes(120, load_rps=800)
    assert [d.desired.instances for d in story.changes if d.desired] == [2]


def test_decide_says_at_limit_when_the_policy_allows_no_more() -> None:
    """More load than the largest count carries is reported, not hidden."""
    story = Story(policy=a_policy(max_instances=1)).passes(30, load_rps=700)
    assert story.last.reason is Reason.AT_LIMIT
    assert story.changes == []


def test_decide_says_at_limit_while_a_backlog_waits_for_instances_that_may_not_be() -> None:
    """The load fits again; the many that an hour of too much has left do not."""
    story = Story(policy=a_policy(max_instances=1))
    story.passes(40, load_rps=1500).passes(30, load_rps=100)
    assert story.pending > 10_000
    assert story.last.reason is Reason.AT_LIMIT
    story.passes(60, load_rps=100)
    assert (story.pending, story.last.reason) == (0.0, Reason.HOLD_STEADY)


@pytest.mark.parametrize("tick_s", [0.5, 9.0, 15.0, 40.0])
@pytest.mark.parametrize("lag", [0.0, 0.5, 0.9])
def test_decide_acts_however_long_the_ticks_are(tick_s: float, lag: float) -> None:
    """Also beyond the stale limit, and with samples that are almost a whole tick old."""
    story = Story(applied=settings(4), obeys=False)
    state, found = ControlState(), []
    for n in range(12):
        story.passes(1, load_rps=50.0)
        seen = story.state.last
        assert seen is not None
        at_s = 1000.0 + n * tick_s
        seen = replace(seen, at_s=at_s, counters_at_s=at_s - lag * tick_s)
        decision, state = decide(state, seen, story.policy)
        found.append(decision)
    assert all(d.reason is not Reason.HOLD_NO_DATA for d in found[3:])
    if tick_s > 1.0:
        assert any(d.reason is Reason.SCALE_DOWN for d in found)


@pytest.mark.parametrize("out_of", ["budget", "bounds"])
def test_decide_does_not_take_back_what_policy_or_budget_force(out_of: str) -> None:
    """An idle model gives up its surplus: whatever comes of it, nothing is judged."""
    policy = a_policy(max_instances=2 if out_of == "bounds" else 4)
    story = Story(policy=policy, applied=settings(4), cap=2 if out_of == "budget" else None)
    for _ in range(12):
        decision = story.tick(0.0)
        if decision.changes:
            break
    reason = Reason.OVER_BUDGET if out_of == "budget" else Reason.OUT_OF_BOUNDS
    assert (decision.reason, story.applied) == (reason, settings(2))
    assert story.state.safety.watch is None
    assert story.state.safety.last_good == settings(2)


def test_decide_counts_the_waiting_requests_as_demand() -> None:
    """In overload completions equal the capacity; the demand must not."""
    story = Story(obeys=False).passes(30, load_rps=2000)
    assert story.last.terms["need_rps"] > 1900


@pytest.mark.parametrize("part", ["counters", "statistics", "applied"])
def test_decide_holds_when_a_part_is_missing(part: str) -> None:
    """Missing data can only hold, whatever the load was."""
    story = Story(applied=settings(3)).passes(100, load_rps=100)
    story.obeys = False
    decision = story.tick(2000, missing=(part,))
    assert decision.reason is Reason.HOLD_NO_DATA
    assert not decision.changes


def test_decide_holds_when_the_counters_were_reset() -> None:
    """A restarted server counts from zero: that is no load, and no reason to shrink."""
    story = Story(applied=settings(3)).passes(30, load_rps=100)
    story.counters = ModelCounters()
    story.statistics = ModelStatistics()
    decision = story.tick(0)
    assert not decision.changes
    assert all(i.arrivals >= 0 for i in story.state.intervals)
    assert len(story.state.intervals) == 29


def test_decide_drops_an_interval_with_a_gap() -> None:
    """A look that is older than the limit is no base for a rate."""
    story = Story().passes(20, load_rps=100)
    before = len(story.state.intervals)
    story.at_s += 60
    story.tick(100)
    assert story.state.intervals == () or len(story.state.intervals) < before
    assert story.last.reason is Reason.HOLD_NO_DATA


def test_decide_does_not_shrink_right_after_a_gap() -> None:
    """What was quiet before the gap proves nothing: a minute of 2,200/s, a gap, then calm."""
    story = Story(applied=settings(4)).passes(100, load_rps=2200)
    story.at_s += 60
    story.passes(13, load_rps=50)
    assert all(d.reason is not Reason.SCALE_DOWN for d in story.decisions)
    story.passes(90, load_rps=50)
    assert story.last.applied != settings(4)


def test_decide_is_not_blinded_by_a_clock_that_was_set_back() -> None:
    """Intervals from the future do not dilute today's load."""
    story = Story().passes(60, load_rps=50)
    story.at_s -= 3600
    story.passes(12, load_rps=1200)
    assert story.applied.instances > 1


def test_decide_waits_for_the_next_sample_of_a_slow_source() -> None:
    """The same sample twice is neither a load of zero nor a gap."""
    story = Story().passes(20, load_rps=400)
    seen = story.state.last
    assert seen is not None
    stamped = replace(seen, counters_at_s=seen.at_s)
    _, state = decide(replace(story.state, last=stamped), stamped, story.policy)
    later = replace(stamped, at_s=stamped.at_s + 1, tick_id="later")
    decision, after = decide(state, later, story.policy)
    assert after.intervals == state.intervals
    assert decision.terms["stable_rps"] == pytest.approx(400)


def test_decide_brings_the_count_within_the_policys_bounds() -> None:
    """Up to the least at once when warm; down to the most in steps."""
    low = Story(policy=a_policy(min_instances=3)).passes(8, load_rps=50)
    assert low.changes[0].reason is Reason.OUT_OF_BOUNDS
    assert low.applied.instances == 3
    high = Story(policy=a_policy(max_instances=2), applied=settings(8)).passes(8, load_rps=50)
    assert high.changes[0].reason is Reason.OUT_OF_BOUNDS
    assert high.applied.instances == 4  # half of them in one step


def test_decide_holds_the_batching_until_full_batches_were_measured() -> None:
    """Singles say nothing of a batch of 32."""
    policy = a_policy(rebatch=True, idle_cost=0.0, max_instances=1)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False))
    story.passes(60, load_rps=100)
    assert story.changes == []
    story.measured().passes(2, load_rps=100)
    assert [d.reason for d in story.changes] == [Reason.REBATCH]


def test_decide_makes_the_base_configuration_in_one_change() -> None:
    """The batching and all instances that are free; nothing is left to be done after it."""
    policy = a_policy(rebatch=True, idle_cost=0.0)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured()
    story.passes(200, load_rps=100)
    assert [d.reason for d in story.changes] == [Reason.REBATCH]
    assert (story.applied.instances, story.applied.largest_batch > 1) == (4, True)


def test_decide_sets_no_smaller_batch_while_requests_wait() -> None:
    """Within 6 ms singles carry more than batches; amid a backlog only batches drain it."""
    policy = a_policy(rebatch=True, idle_cost=0.0, max_instances=1, slo_s=0.008)
    story = Story(policy=policy, applied=settings(1, batch=32), obeys=False).measured()
    story.pending = 2000.0
    story.passes(10, load_rps=700)
    assert Reason.REBATCH not in story.reasons
    calm = Story(policy=policy, applied=settings(1, batch=32), obeys=False).measured()
    calm.passes(10, load_rps=20)
    smaller = [d.desired for d in calm.decisions if d.reason is Reason.REBATCH]
    assert all(wanted.largest_batch < 32 for wanted in smaller if wanted)


def test_decide_rebatches_a_model_without_dynamic_batching() -> None:
    """Triton's default is replaced when batching carries clearly more."""
    policy = a_policy(rebatch=True, max_instances=1)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured()
    story.passes(15, load_rps=100)
    assert story.changes[0].reason is Reason.REBATCH
    assert story.applied.dynamic_batching
    assert story.applied.largest_batch > 1


@pytest.mark.parametrize(("items", "keeps"), [(0, False), (5000, True)])
def test_decide_sets_no_limit_below_what_requests_bring(items: int, keeps: bool) -> None:
    """Within 20 ms the best batch is smaller; some requests before today brought up to 32 items."""
    policy = a_policy(rebatch=True, max_instances=1, slo_s=0.02)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured()
    story.counters = ModelCounters(success=1000, inference_count=items)
    story.passes(15, load_rps=100)
    assert story.changes[0].reason is Reason.REBATCH
    assert (story.applied.max_batch_size == 32) is keeps


def test_decide_leaves_good_batching_alone() -> None:
    """A reload is dear: no gain, no reload."""
    policy = a_policy(rebatch=True)
    story = Story(policy=policy, applied=settings(1, batch=32)).measured()
    story.passes(120, load_rps=100)
    assert [d for d in story.decisions if d.reason is Reason.REBATCH] == []


def test_decide_rebatches_once_and_not_again() -> None:
    """The plan that was applied is the plan that is found the next time."""
    policy = a_policy(rebatch=True, cooldown_s=1.0)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured()
    story.passes(200, load_rps=150)
    assert sum(d.reason is Reason.REBATCH for d in story.changes) == 1


def test_decision_keeps_every_number_of_the_formula() -> None:
    """The terms say how the need and the capacities came about."""
    story = Story().passes(20, load_rps=300)
    terms = story.last.terms
    assert terms["fast_rps"] == pytest.approx(300)
    # The bound of the widest window, which looks make up to nine tenths.
    assert 300 - math.sqrt(300 * 14) / 14 <= terms["need_rps"] <= 300
    assert terms["capacity_2_rps"] > terms["capacity_1_rps"] > 300


def test_guard_clamps_show_in_the_decision() -> None:
    """What the guard changed is part of the decision."""
    story = Story(policy=a_policy(min_instances=2), applied=settings(4)).passes(130, load_rps=50)
    assert story.applied.instances == 2
    story.state = replace(story.state, in_flight=in_flight(settings(2)))
    story.pending = 0.0
    story.obeys = False
    story.passes(3, load_rps=3000)
    assert Clamp.CHANGE_IN_FLIGHT in story.last.clamps
    assert not story.last.changes


@hypothesis_settings(max_examples=30, deadline=None)
@given(loads=st.lists(st.floats(0, 3000), min_size=8, max_size=25))
def test_decide_stays_within_bounds_for_any_load(loads: list[float]) -> None:
    """Whatever comes, the desired count is within the policy and every term is finite."""
    story = Story()
    for load in loads:
        story.tick(load)
    for decision in story.decisions:
        assert decision.desired is not None
        assert 1 <= decision.desired.instances <= 4
        assert all(math.isfinite(v) or k == "plan_gain" for k, v in decision.terms.items())


@hypothesis_settings(max_examples=20, deadline=None)
@given(low=st.floats(50, 1500), more=st.floats(0, 1500))
def test_decide_wants_no_fewer_instances_for_more_load(low: float, more: float) -> None:
    """From equal states, more load never gives fewer instances."""
    less, greater = Story().passes(15, load_rps=100), Story().passes(15, load_rps=100)
    first, second = less.tick(low), greater.tick(low + more)
    assert first.desired is not None
    assert second.desired is not None
    assert second.desired.instances >= first.desired.instances
