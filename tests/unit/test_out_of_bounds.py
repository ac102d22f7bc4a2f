"""A count beyond a written bound: the measured need comes first, and each cut is looked at."""

from __future__ import annotations

from dataclasses import replace

from control.core.reasons import Clamp, Reason
from control.core.rules import rule_named
from tests.unit import story
from tests.unit.life import Life
from tests.unit.story import TRUE, a_policy

FOUR_OF_EIGHT = a_policy(min_instances=3, max_instances=3, cores=2, slo_s=0.2)
EIGHT = story.settings(8, batch=1, dynamic=False)
"""Each carries 200 req/s of 5 ms."""


def _lives(loads: list[float], **seen: object) -> Life:
    life = Life(rule=rule_named("conch"), policy=FOUR_OF_EIGHT, applied=EIGHT)
    return life.lasts(loads, **seen)


def test_out_of_bounds_never_cuts_below_the_measured_need() -> None:
    """1000 req/s of 5 ms keep five instances busy: three are allowed, and it stays above five."""
    life = _lives([1000.0] * 60)
    assert life.applied.instances >= 6
    assert life.decisions[-1].reason is Reason.AT_LIMIT
    assert life.decisions[-1].terms["needed_instances"] >= 6


def test_out_of_bounds_goes_to_the_bound_where_that_carries_the_load() -> None:
    """100 req/s need one instance: in two steps down to the three that are allowed."""
    life = _lives([100.0] * 60)
    assert life.applied.instances == 3
    assert {d.reason for d in life.changes} == {Reason.OUT_OF_BOUNDS}


def test_out_of_bounds_waits_until_the_first_cut_was_seen() -> None:
    """At least the settling time and a stable window lie between the two cuts."""
    life = _lives([100.0] * 60)
    first, second = life.changes[:2]
    ended_s = first.at_s + life.load_s
    policy = life.policy
    assert second.at_s - ended_s >= policy.settle_s + policy.stable_window_s
    held = [
        d
        for d in life.decisions
        if first.at_s < d.at_s < second.at_s and Clamp.COOLDOWN in d.clamps
    ]
    assert held


def test_out_of_bounds_waits_while_the_queue_grows() -> None:
    """What the first cut did to the queue is reason enough not to cut again."""
    life = _lives([100.0] * 8)
    assert len(life.changes) == 1
    waiting = 0.0
    for _ in range(40):
        waiting += 3.0
        life.serves(100.0)
        life.obeys(life.looks(counters=replace(life.counters, pending=waiting)))
    assert life.applied.instances > 3


def test_out_of_bounds_holds_while_the_service_time_is_not_known() -> None:
    """A load that is there, and not one batch in the statistics: nobody knows the need."""
    life = Life(rule=rule_named("conch"), policy=FOUR_OF_EIGHT, applied=EIGHT)
    for _ in range(30):
        life.at_s += 1.0
        life.counters = replace(life.counters, pending=life.counters.pending + 2.0)
        life.obeys(life.looks())
    assert life.changes == []
    assert TRUE.of(1) > 0
