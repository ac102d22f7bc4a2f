"""Kubernetes' autoscaler, by hand: tolerance, up limits and down stabilisation."""

from __future__ import annotations

import itertools

import pytest

from control.core.reasons import Reason
from control.core.rules.baselines.hpa_utilisation import HpaUtilisation
from tests.unit.rule_story import RuleStory
from tests.unit.story import a_policy, settings


def test_a_ratio_beyond_the_tolerance_scales_up() -> None:
    """4 instances at 0.9 of 0.7: ceil(4 · 1.2857) = 6."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(4)).sees(20, utilisation=0.9)
    assert story.counts == [4, 6]
    assert story.decisions[-1].reason is Reason.HOLD_RULE
    up = next(d for d in story.decisions if d.changes)
    assert up.reason is Reason.SCALE_BY_RULE
    assert up.terms["ratio"] == pytest.approx(0.9 / 0.7)
    assert up.terms["proposed_instances"] == 6


@pytest.mark.parametrize("utilisation", [0.64, 0.7, 0.76])
def test_within_ten_percent_of_the_target_nothing_moves(utilisation: float) -> None:
    """0.64 / 0.7 = 0.914 and 0.76 / 0.7 = 1.086 are within 0.1 of 1."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(9))
    story.sees(400, utilisation=utilisation, tick_s=2)
    assert story.counts == [9]


def test_just_outside_the_tolerance_it_moves() -> None:
    """0.78 / 0.7 = 1.114: ceil(9 · 1.114) = 11."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(9)).sees(20, utilisation=0.78)
    assert story.counts == [9, 11]


def test_a_target_of_91_percent_can_never_scale_up() -> None:
    """No instance is more than busy: 1 / 0.91 = 1.099 is within the tolerance."""
    for target, moved in ((0.91, [2]), (0.9, [2, 3])):
        story = RuleStory(rule=HpaUtilisation(target=target), applied=settings(2))
        assert story.sees(20, utilisation=1.0).counts == moved


def test_a_step_up_adds_four_or_doubles() -> None:
    """Busy at a target of 0.1 asks for ten times as many: 1 → 5 → 10 → 20, each 15 s."""
    story = RuleStory(rule=HpaUtilisation(target=0.1)).sees(46, utilisation=1.0)
    assert story.counts == [1, 5, 10, 20]
    at_s = [d.at_s for d in story.decisions if d.changes]
    assert [b - a for a, b in itertools.pairwise(at_s)] == [15.0, 15.0]


def test_it_syncs_each_15_seconds_whatever_the_tick() -> None:
    """Between syncs it holds, however often it is asked."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(4))
    story.sees(14, utilisation=0.9, tick_s=0.25).sees(14, utilisation=0.9, tick_s=0.25)
    synced = [d for d in story.decisions if "ratio" in d.terms]
    assert len(synced) == 2
    assert synced[1].at_s - synced[0].at_s == 15.0


def test_down_waits_for_300_seconds_of_agreement() -> None:
    """The count at the start is a recommendation, too: nothing goes down within 300 s of it."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(8)).sees(310, utilisation=0.2)
    assert story.counts == [8]
    story.sees(20, utilisation=0.2)
    assert story.counts == [8, 3]  # ceil(8 · 0.2857) = 3
    down = next(d for d in story.decisions if d.changes)
    first = next(d for d in story.decisions if "ratio" in d.terms)
    assert down.at_s - first.at_s == 300.0


def test_a_peak_within_the_stabilisation_holds_the_count_up() -> None:
    """One recommendation of 8 keeps 8 for 300 s after it."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(8)).sees(200, utilisation=0.2)
    story.sees(30, utilisation=0.7).sees(270, utilisation=0.2)
    assert story.counts == [8]
    story.sees(60, utilisation=0.2)
    assert story.counts[-1] == 3
    assert len(story.counts) <= 4  # the window may hold means of both loads on its way down


def test_the_first_window_must_be_covered() -> None:
    """A second of load is no utilisation."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(4)).sees(12, utilisation=1.0)
    assert {d.reason for d in story.decisions[1:]} == {Reason.HOLD_WARMING_UP}


def test_a_sync_waits_for_a_change_in_flight() -> None:
    """It is not lost: it comes as soon as the change has ended."""
    story = RuleStory(rule=HpaUtilisation(), applied=settings(4)).begins()
    story.sees(40, utilisation=0.9)
    assert story.counts == [4]
    story.state = story.state.unchanged()
    assert story.sees(1, utilisation=0.9).counts == [4, 6]


def test_the_policy_bounds_it() -> None:
    """At its maximum it says so."""
    story = RuleStory(rule=HpaUtilisation(target=0.1), policy=a_policy(max_instances=3))
    story.sees(31, utilisation=1.0)
    assert story.counts == [1, 3]
    assert story.last.reason in (Reason.AT_LIMIT, Reason.HOLD_RULE)
    assert Reason.AT_LIMIT in [d.reason for d in story.decisions]
