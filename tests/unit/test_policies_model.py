"""Rules that know a model of the server: static counts, InferLine and the clairvoyant one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.reasons import Reason
from control.core.rules.baselines import signals
from control.core.rules.baselines.carried import Carried
from control.core.rules.baselines.clairvoyant import Clairvoyant, highest_mean_rps
from control.core.rules.baselines.inferline import InferLine, highest_rate, newest_rates
from control.core.rules.baselines.static import Static, StaticDefault, StaticMean
from tests.unit.intervals import in_a_row
from tests.unit.rule_story import RuleStory
from tests.unit.story import a_policy, settings

PLAIN = a_policy(slo_s=10.0, max_instances=8, cores=8, margin_fraction=0.0)
"""With so much time ρ alone decides: Λ(c) = 0.8 · c · 8 / ℓ(8)."""

TRULY: dict[str, Any] = {"batch": 8, "utilisation": None}
"""Full batches that take their true time."""


def told(story: RuleStory) -> dict[int, float]:
    """Λ by count, as the rules get it."""
    seen = story.state.last
    assert seen is not None
    carried = Carried(state=story.state, seen=seen, policy=story.policy, applied=story.applied)
    return {count: carried.rps(count) for count in range(1, 9)}


def test_static_goes_to_its_count_once_and_stays() -> None:
    """Whatever the load."""
    story = RuleStory(rule=Static(count=3)).sees(5, load_rps=1.0).sees(5, load_rps=1e4)
    assert story.counts == [1, 3]
    assert RuleStory(rule=StaticDefault(), applied=settings(4)).sees(3).counts == [4, 1]


def test_static_mean_sizes_once_to_the_mean_of_the_first_seconds() -> None:
    """Half a minute of 100/s and half a minute of 300/s are 200/s; later load changes nothing."""
    story = RuleStory(rule=StaticMean(), policy=PLAIN)
    story.sees(31, load_rps=100, **TRULY)
    assert story.last.reason is Reason.HOLD_WARMING_UP
    story.sees(30, load_rps=300, **TRULY)
    carried = told(story)
    assert story.last.terms["mean_rps"] == pytest.approx(200.0)
    assert story.applied.instances == min(c for c, rps in carried.items() if rps >= 200.0)
    before = story.counts
    assert story.sees(60, load_rps=50, batch=8, utilisation=1.0).counts == before  # much slower
    assert story.sees(120, load_rps=3000, **TRULY).counts == before


def test_the_envelope_has_a_rate_for_every_window_that_is_covered() -> None:
    """Of 4 s the windows of 1, 2 and 4 s are known, newest last."""
    assert newest_rates(in_a_row([10, 20, 30, 40]), 1.0) == {1.0: 40.0, 2.0: 35.0, 4.0: 25.0}
    assert list(newest_rates(in_a_row([1.0] * 60), 1.0)) == [1, 2, 4, 8, 16, 32, 60]


def test_the_peak_is_the_greatest_rate_of_a_full_step() -> None:
    """Over 2 s: 15, 35, 30 and 15; before its window nothing counts."""
    intervals = in_a_row([10, 20, 50, 10, 20])
    assert highest_rate(intervals, step_s=2.0, after_s=0.0) == 35.0
    assert highest_rate(intervals, step_s=2.0, after_s=3.0) == 15.0
    assert highest_rate(intervals, step_s=9.0, after_s=0.0) is None


def test_inferline_goes_up_at_once_when_any_window_leaves_the_plan() -> None:
    """The very second in which the rate jumps, to the fewest that carry it."""
    story = RuleStory(rule=InferLine(), policy=PLAIN).sees(60, load_rps=50, **TRULY)
    assert story.counts == [1]
    planned = told(story)[1]
    story.sees(1, load_rps=2.5 * planned, **TRULY)
    assert story.applied.instances == 3
    assert story.last.terms["above_rps"] == pytest.approx(2.5 * planned, rel=1e-3)


def test_inferline_lets_a_short_window_be_as_rough_as_the_plans_sample() -> None:
    """λ + 3·√λ in one second is what a Poisson sample has; a bit more is not."""
    story = RuleStory(rule=InferLine(), policy=PLAIN).sees(60, load_rps=50, **TRULY)
    planned = told(story)[1]
    rough = planned + 2.9 * math.sqrt(planned)
    assert story.sees(1, load_rps=rough, **TRULY).counts == [1]
    story.sees(10, load_rps=50, **TRULY)
    rough = planned + 3.2 * math.sqrt(planned)
    assert story.sees(1, load_rps=rough, **TRULY).counts == [1, 2]


def test_inferline_goes_down_to_the_peak_of_30_seconds_after_15_quiet_ones() -> None:
    """Not before both have passed."""
    story = RuleStory(rule=InferLine(), policy=PLAIN, applied=settings(6))
    story.sees(27, load_rps=100, **TRULY)
    assert story.counts == [6]
    story.sees(3, load_rps=100, **TRULY)
    assert story.counts == [6, 1]
    planned = told(story)[1]
    story.sees(5, load_rps=1.5 * planned, **TRULY)
    assert story.applied.instances == 2
    story.sees(25, load_rps=50, **TRULY)
    assert story.applied.instances == 2
    story.sees(5, load_rps=50, **TRULY)
    assert story.applied.instances == 1


def test_inferline_does_not_go_down_within_15_seconds_of_a_change() -> None:
    """With a short memory of the peak only the last change holds it."""
    story = RuleStory(rule=InferLine(down_window_s=6.0), policy=PLAIN).sees(
        30, load_rps=50, **TRULY
    )
    story.sees(1, load_rps=1500, **TRULY)
    up = story.applied.instances
    assert up > 1
    story.sees(14, load_rps=50, **TRULY)
    assert story.applied.instances == up
    story.sees(1, load_rps=50, **TRULY)
    assert story.applied.instances == 1


def test_inferline_takes_a_given_ratio() -> None:
    """With ρ = 0.5, k carries half of k·8/ℓ(8)."""
    story = RuleStory(rule=InferLine(rho=0.5), policy=PLAIN).sees(60, load_rps=50, **TRULY)
    service = story.state.learnt.at(1, threads=1, cores=8)
    assert service is not None
    assert story.last.terms["planned_rps"] == pytest.approx(0.5 * 8 / service.of(8))


def test_a_mean_over_the_horizon_is_the_greatest_one() -> None:
    """100/s, from 5 s on 200/s: (1 · 100 + 9 · 200) / 10 within 14 s; a pulse is averaged."""
    step = ((0.0, 100.0), (5.0, 200.0))
    assert highest_mean_rps(step, from_s=0.0, horizon_s=14.0, mean_s=10.0) == pytest.approx(190)
    pulse = ((0.0, 100.0), (5.0, 600.0), (7.0, 100.0))
    assert highest_mean_rps(pulse, from_s=0.0, horizon_s=14.0, mean_s=10.0) == pytest.approx(200)
    assert highest_mean_rps(pulse, from_s=0.0, horizon_s=14.0, mean_s=2.0) == pytest.approx(600)
    assert highest_mean_rps(pulse, from_s=8.0, horizon_s=14.0, mean_s=2.0) == pytest.approx(100)
    assert highest_mean_rps((), from_s=0.0, horizon_s=14.0, mean_s=2.0) == 0.0


def test_a_function_is_a_rate_too() -> None:
    """Sampled each half second."""
    got = highest_mean_rps(lambda at: 10 * at, from_s=0.0, horizon_s=14.0, mean_s=10.0)
    assert got == pytest.approx(10 * (4.0 + 13.5) / 2)  # samples at 4, 4.5, ... 13.5


def test_the_clairvoyant_is_ready_before_the_jump() -> None:
    """Nothing has come yet, and the count is there; down as soon as the horizon is empty."""
    story = RuleStory(rule=Clairvoyant(), policy=PLAIN).sees(2, load_rps=50, **TRULY)
    planned = told(story)[1]
    rate = ((0.0, 50.0), (30.0, 3.5 * planned), (60.0, 50.0))
    story = RuleStory(rule=Clairvoyant(rate=rate), policy=PLAIN)
    story.sees(16, load_rps=50, **TRULY)
    assert story.applied.instances == 1
    story.sees(14, load_rps=50, **TRULY)
    assert story.applied.instances == 4
    story.sees(40, load_rps=50, **TRULY)
    assert story.applied.instances == 1


def test_the_clairvoyant_counts_from_the_given_start() -> None:
    """In the time of the looks."""
    rate = ((0.0, 50.0), (30.0, 1e5))
    story = RuleStory(rule=Clairvoyant(rate=rate, start_s=985.0), policy=PLAIN)
    story.sees(4, load_rps=50, **TRULY)
    assert story.applied.instances == 8
    assert story.last.reason is Reason.AT_LIMIT


@given(
    loads=st.lists(st.floats(0.0, 1e5), min_size=1, max_size=12),
    low=st.integers(1, 3),
    more=st.integers(0, 5),
)
def test_signals_are_finite_and_counts_within_bounds(
    loads: list[float], low: int, more: int
) -> None:
    """For any load: a static rule that wants too much or too little."""
    policy = a_policy(min_instances=low, max_instances=low + more)
    for count in (1, 99):
        story = RuleStory(rule=Static(count=count), policy=policy)
        story.sees(1)
        for load in loads:
            story.sees(1, load_rps=load)
        for decision in story.decisions[1:]:
            assert decision.desired is not None
            assert low <= decision.desired.instances <= low + more
        window = signals.signals(story.state, story.at_s, 60.0)
        assert window is not None
        assert all(math.isfinite(value) for value in window.terms.values())
