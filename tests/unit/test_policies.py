"""What holds for every rule: bounds, one change at a time, no action on missing data, options."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from conch.errors import ConfigError
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from control.core.rules import GRIDS, RULES, SOURCES, rule_named
from control.core.rules.baselines.knative_kpa import KnativeKpa
from control.core.rules.baselines.static import Static
from control.core.rules.rule import Rule
from control.core.step import Looked, step
from control.core.types import Decision, Observation
from tests.unit.rule_story import RuleStory
from tests.unit.story import a_policy, settings

BASELINES = sorted(set(RULES) - {"conch"})
OPTIONS: dict[str, dict[str, Any]] = {
    "static": {"count": 7},
    "clairvoyant": {"rate": ((0.0, 1e4),)},
    "ray-serve": {"upscale_delay_s": 0.0},
}
"""What makes every rule want many instances under ``PRESSED``."""
PRESSED: dict[str, Any] = {
    "load_rps": 1e4,
    "utilisation": 1.0,
    "batch": 8,
    "pending": 500.0,
    "request_s": 0.5,
    "queue_s": 0.4,
}
TRULY: dict[str, Any] = {"load_rps": 1e4, "utilisation": None, "batch": 8}
"""For the rules that know a model of the server: batches that take their true time."""
MOVES_UP = sorted(set(BASELINES) - {"static-default", "aimd-batching"})


def pressure(name: str) -> dict[str, Any]:
    """What makes this rule want many instances."""
    return TRULY if name in ("inferline", "clairvoyant", "static-mean") else PRESSED


def pressed(name: str, **story: Any) -> RuleStory:
    """A rule that wants more than it has."""
    told = {"policy": a_policy(max_instances=12), **story}
    return RuleStory(rule=rule_named(name, OPTIONS.get(name)), **told)


@pytest.mark.parametrize("name", MOVES_UP)
def test_pressure_scales_up_to_the_bound_and_no_further(name: str) -> None:
    """In whole multiples, never above the policy, never above the share of the budget."""
    story = pressed(name, policy=a_policy(max_instances=5)).sees(70, **pressure(name))
    assert story.applied.instances > 1
    assert max(story.counts) <= 5
    story = pressed(name, policy=a_policy(max_instances=5)).sees(70, cap=3, **pressure(name))
    assert 1 < max(story.counts) <= 3
    story = pressed(name, policy=a_policy(max_instances=5)).sees(
        70, granularity=2, **pressure(name)
    )
    assert set(story.counts[1:]) <= {2, 4}


@pytest.mark.parametrize("name", BASELINES)
def test_missing_data_holds(name: str) -> None:
    """Whatever part is missing, and for as long as it is; then it goes on."""
    for part in ("counters", "statistics", "applied"):
        story = pressed(name, applied=settings(4)).sees(40, **pressure(name))
        before = story.applied
        story.sees(90, missing=(part,), **(pressure(name) | {"load_rps": 1.0, "pending": 0.0}))
        since = story.decisions[40:]
        assert {d.reason for d in since} == {Reason.HOLD_NO_DATA}
        assert not any(d.changes for d in since)
        assert story.applied == before


@pytest.mark.parametrize("name", BASELINES)
def test_a_look_after_a_long_gap_holds(name: str) -> None:
    """A gap longer than ``stale_s`` leaves nothing to compare with."""
    story = pressed(name).sees(40, **pressure(name))
    story.at_s += 60.0
    story.sees(1, **pressure(name))
    assert story.last.reason is Reason.HOLD_NO_DATA


@pytest.mark.parametrize("name", BASELINES)
def test_counters_that_go_back_hold(name: str) -> None:
    """A restarted server counts from zero."""
    story = pressed(name).sees(40, **pressure(name))
    story.counters = type(story.counters)()
    story.look(at_s=story.at_s + 1.0)
    assert story.last.reason is Reason.HOLD_NO_DATA


@pytest.mark.parametrize("name", MOVES_UP)
def test_one_change_at_a_time(name: str) -> None:
    """While a change is in flight nothing is asked for; after it, it goes on."""
    story = pressed(name).begins().sees(70, **pressure(name))
    assert not any(d.changes for d in story.decisions)
    story.state = story.state.unchanged()
    assert story.sees(20, **pressure(name)).applied.instances > 1


class Stepped:
    """A rule as the loop asks it: through ``step``."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.name = rule, rule.name

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """One look."""
        state, decision = step(self.rule, state, Looked(seen=seen), policy)
        assert decision is not None
        return decision, state


@pytest.mark.parametrize("name", MOVES_UP)
def test_a_frozen_model_is_left_alone(name: str) -> None:
    """And the decision says what the rule wanted."""
    story = pressed(name)
    story.rule = Stepped(story.rule)  # as the loop asks it: a freeze is the same for every rule
    story.sees(70, frozen=True, **pressure(name))
    assert not any(d.changes for d in story.decisions)
    assert Reason.HOLD_FROZEN in [d.reason for d in story.decisions]


@pytest.mark.parametrize("reason", [Reason.HOLD_EDITED, Reason.HOLD_FROZEN])
@pytest.mark.parametrize("name", sorted(RULES))
def test_what_a_person_did_is_the_reason_whatever_the_rule(name: str, reason: Reason) -> None:
    """Also where the rule would hold anyway; without data, that comes first."""
    story = pressed(name)
    story.rule = Stepped(story.rule)
    seen = {"edited": True, "frozen": reason is Reason.HOLD_FROZEN}
    story.sees(70, **seen, **pressure(name))
    assert not any(d.changes for d in story.decisions)
    assert {d.reason for d in story.decisions} == {Reason.HOLD_NO_DATA, reason}
    assert story.decisions[-1].reason is reason


def test_what_the_bounds_did_is_said() -> None:
    """Raised, lowered, and the share of the budget."""
    for count, seen, clamp in (
        (1, {}, Clamp.MIN_INSTANCES),
        (9, {}, Clamp.MAX_INSTANCES),
        (4, {"cap": 3}, Clamp.BUDGET),
    ):
        policy = a_policy(min_instances=2, max_instances=5)
        story = RuleStory(rule=Static(count=count), policy=policy, applied=settings(3))
        story.sees(2, **seen)
        assert clamp in story.last.clamps
    assert story.last.reason is Reason.AT_LIMIT


def test_a_scale_up_of_a_saturated_model_is_made_by_a_second_copy() -> None:
    """More waits than the 2 · 8 of the next round; a scale down is always in place."""
    for waiting, count, fresh in ((17.0, 3, True), (16.0, 3, False), (17.0, 1, False)):
        story = RuleStory(rule=Static(count=count), applied=settings(2))
        story.sees(2, pending=waiting)
        assert story.last.changes
        assert story.last.fresh is fresh


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_looks_give_the_same_decisions(name: str) -> None:
    """Pure: nothing but the values that go in."""
    calm = {**pressure(name), "load_rps": 80.0, "pending": 0.0}
    one, two = (pressed(name).sees(30, **pressure(name)).sees(30, **calm) for _ in range(2))
    assert one.decisions == two.decisions
    assert one.state == two.state


@given(
    looks=st.lists(
        st.tuples(
            st.floats(0.0, 1e6),  # load
            st.floats(0.0, 1.0),  # utilisation
            st.floats(0.0, 1e6),  # pending
            st.floats(0.0, 100.0),  # time in the queue
            st.sampled_from([0.25, 1.0, 2.0]),  # tick
        ),
        min_size=1,
        max_size=6,
    ),
    low=st.integers(1, 3),
    more=st.integers(0, 4),
    name=st.sampled_from(BASELINES),
)
@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_load_keeps_the_count_within_bounds_and_the_numbers_finite(
    looks: list[tuple[float, float, float, float, float]], low: int, more: int, name: str
) -> None:
    """For every rule."""
    policy = a_policy(min_instances=low, max_instances=low + more)
    story = pressed(name, policy=policy, applied=settings(low))
    story.sees(20, tick_s=2.0)
    for load, utilisation, pending, queue_s, tick_s in looks:
        story.sees(
            4,
            load_rps=load,
            utilisation=utilisation,
            pending=pending,
            queue_s=queue_s,
            request_s=queue_s + 0.01,
            tick_s=tick_s,
        )
    for decision in story.decisions:
        assert decision.desired is not None
        assert low <= decision.desired.instances <= low + more
        assert 1 <= decision.desired.max_batch_size <= policy.max_batch_size
        assert all(math.isfinite(value) for value in decision.terms.values())


def test_every_rule_is_made_by_its_name_and_says_where_it_comes_from() -> None:
    """And every value of a grid is one that its rule takes."""
    for name in RULES:
        assert rule_named(name).name == name
        assert SOURCES[name]
        for option, values in GRIDS.get(name, {}).items():
            for value in values:
                assert getattr(rule_named(name, {option: value}), option) == value


def test_an_option_may_come_as_text_or_as_a_whole_float() -> None:
    """As a policy file and a command line give them."""
    assert rule_named("static", {"count": 3.0}) == Static(count=3)
    assert rule_named("knative-kpa", {"stable_window_s": "30"}) == KnativeKpa(stable_window_s=30.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nobody", {}),
        ("static", {"cuont": 3}),
        ("static", {"count": 2.5}),
        ("static", {"count": 0}),
        ("hpa-utilisation", {"target": 0.0}),
        ("hpa-utilisation", {"target": float("nan")}),
        ("hpa-utilisation", {"target": float("inf")}),
        ("hpa-utilisation", {"target": "much"}),
        ("ray-serve", {"downscale_delay_s": -1.0}),
        ("clairvoyant", {"rate": 100.0}),
    ],
)
def test_a_wrong_option_is_an_error_with_a_way_out(name: str, options: dict[str, Any]) -> None:
    """Before anything is controlled."""
    with pytest.raises(ConfigError) as raised:
        rule_named(name, options)
    assert name in str(raised.value)
    assert raised.value.hint


def test_a_clairvoyant_without_a_rate_holds() -> None:
    """Nobody has told it what comes."""
    story = RuleStory(rule=rule_named("clairvoyant"), applied=settings(4)).sees(30, **PRESSED)
    assert not any(d.changes for d in story.decisions)
