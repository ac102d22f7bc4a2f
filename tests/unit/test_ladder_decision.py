"""The ladder in one model's own decision: what the budget allows is given up and taken."""

from __future__ import annotations

import pytest

from control.core.reasons import Clamp, Reason
from tests.unit.story import TRUE, Story, a_policy
from tests.unit.test_budget_versions import SIZES, a_version

HALF = TRUE.scaled(0.5)


def _story(**gauges: object) -> Story:
    """Version 2 is the best, 1 takes half the time; after 20 quiet seconds at the best."""
    story = Story(
        policy=a_policy(max_instances=1, versions=(2, 1)),
        curves={2: TRUE, 1: HALF},
        applied=a_version(2),
        gauges={"may_load": (2,), "version_bytes": SIZES, **gauges},
    )
    return story.passes(20, load_rps=200)


def test_a_version_is_given_up_at_once_and_nobody_takes_it_back() -> None:
    """Although it carries its load; the way back waits until the budget allows it."""
    story = _story()
    assert story.applied == a_version(2)
    story.gauges["may_load"] = (1,)
    decision = story.tick(200)
    assert (decision.reason, decision.clamps) == (Reason.OVER_BUDGET, ())
    assert decision.desired == a_version(1)
    assert decision.terms["rung_version"] == 1.0
    begin = len(story.decisions)
    story.passes(90, load_rps=200)
    assert not any(one.changes for one in story.decisions[begin:])
    story.gauges["may_load"] = (2,)
    story.passes(3, load_rps=200)
    assert story.applied == a_version(2)
    assert story.reasons[-3:].count(Reason.QUALITY_UP) == 1


@pytest.mark.parametrize(("may_load", "standby"), [((2,), ()), ((1, 2), (1,))])
def test_a_cheaper_version_stands_by_only_where_the_budget_allows_it(
    may_load: tuple[int, ...], standby: tuple[int, ...]
) -> None:
    """And it goes at once where it does not any more."""
    story = _story(may_load=may_load)
    assert story.applied == a_version(2, *standby)
    story.gauges["may_load"] = (2,)
    story.passes(2, load_rps=200)
    assert story.applied == a_version(2)


def test_a_rush_is_met_below_the_rung_that_is_allowed() -> None:
    """900 req/s are the cheap version's, whatever the memory would hold; then the best again."""
    story = _story().passes(6, load_rps=900)
    assert story.applied == a_version(1)
    assert Reason.QUALITY_DOWN in story.reasons
    story.passes(60, load_rps=200)
    assert story.applied == a_version(2)


def test_a_model_that_nobody_asks_gives_up_its_version_too() -> None:
    """It has no need that could say so."""
    story = Story(
        policy=a_policy(max_instances=1, versions=(2, 1)),
        curves={2: TRUE, 1: HALF},
        applied=a_version(2),
        gauges={"may_load": (1,), "version_bytes": SIZES},
    ).passes(8, load_rps=0)
    assert story.applied == a_version(1)
    assert Reason.OVER_BUDGET in story.reasons
    assert Clamp.COOLDOWN not in story.decisions[-1].clamps


def test_the_need_tells_what_each_version_would_carry() -> None:
    """Only where the budget asks for it."""
    need = _story().decisions[-1].need
    assert need is not None
    assert need.by_version[1][1] > need.by_version[2][1] > 200
    assert need.load_s == 2.0
    other = _story(may_load=None).decisions[-1].need
    assert other is not None
    assert not other.by_version
