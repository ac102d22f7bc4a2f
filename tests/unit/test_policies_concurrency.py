"""Rules that count requests in flight or feel for latency, by hand: KPA, Ray, the ratio, AIMD."""

from __future__ import annotations

import itertools

import pytest

from control.core.reasons import Reason
from control.core.rules.baselines.aimd_batching import AimdBatching, AimdBatchingHpa, next_size
from control.core.rules.baselines.hpa_queue_compute import HpaQueueCompute
from control.core.rules.baselines.knative_kpa import KnativeKpa
from control.core.rules.baselines.ray_serve import RayServe
from control.core.types import Decision
from serving.statistics import ModelStatistics
from tests.unit.rule_story import RuleStory
from tests.unit.story import a_policy, settings

IDLE = {"utilisation": 0.0}
"""Nothing executes: what is in flight is what waits."""


def scaled(story: RuleStory) -> list[Decision]:
    """The decisions in which KPA scaled: one in two, at a tick of a second."""
    return [d for d in story.decisions if "in_panic" in d.terms]


def test_requests_in_flight_are_those_that_wait_and_those_in_execution() -> None:
    """2 instances, half busy with batches of 4, and 3 waiting: 2 · 0.5 · 4 + 3 = 7."""
    story = RuleStory(rule=KnativeKpa(), applied=settings(2))
    story.sees(3, utilisation=0.5, batch=4, pending=3.0)
    assert story.last.terms["stable_concurrency"] == pytest.approx(7.0)


def test_kpa_keeps_70_percent_of_the_largest_batch() -> None:
    """8 · 0.7 = 5.6 an instance: 11 in flight want ceil(1.96) = 2, 12 want ceil(2.14) = 3."""
    for in_flight, count in ((11.0, 2), (12.0, 3)):
        story = RuleStory(rule=KnativeKpa()).sees(70, pending=in_flight, **IDLE)
        assert story.last.terms["target_concurrency"] == pytest.approx(5.6)
        assert story.applied.instances == count


def test_kpa_panics_when_six_seconds_want_twice_as_many() -> None:
    """The stable mean of 60 s has hardly moved, the panic window asks for 4 · 5.6."""
    story = RuleStory(rule=KnativeKpa(), applied=settings(2))
    story.sees(130, pending=8.0, **IDLE)  # wants ceil(1.43) = 2; the panic of the start is over
    assert scaled(story)[-1].terms["in_panic"] == 0.0
    story.sees(6, pending=22.0, **IDLE)
    assert story.applied.instances == 4
    assert scaled(story)[-1].terms["stable_instances"] == 2
    assert scaled(story)[-1].terms["in_panic"] == 1.0


def test_kpa_never_goes_down_in_panic_and_does_after_60_quiet_seconds() -> None:
    """The trigger, then silence: the count holds for 60 s, then half of it a step."""
    story = RuleStory(rule=KnativeKpa()).sees(130, pending=4.0, **IDLE)
    assert story.applied.instances == 1
    story.sees(6, pending=44.0, **IDLE)
    assert story.applied.instances == 8
    trigger_s = max(
        d.at_s
        for d in scaled(story)
        if d.terms["panic_instances"] >= 2 * d.terms["applied_instances"]
    )
    story.sees(80, pending=1.0, **IDLE)
    down = [d for d in story.decisions if d.changes and d.at_s > trigger_s + 10]
    assert down[0].at_s - trigger_s == 62.0  # the first decision after 60 s
    assert story.counts[-4:] == [8, 4, 2, 1]


def test_kpa_that_starts_with_several_instances_starts_in_panic() -> None:
    """Without history it does not scale down for 60 s."""
    story = RuleStory(rule=KnativeKpa(), applied=settings(4)).sees(60, pending=0.0, **IDLE)
    assert story.counts == [4]
    assert story.sees(10, pending=0.0, **IDLE).applied.instances < 4


def test_kpa_keeps_the_greatest_wish_of_its_scale_down_delay() -> None:
    """Half a minute more than without it."""
    times = []
    for delay_s in (0.0, 30.0):
        story = RuleStory(rule=KnativeKpa(scale_down_delay_s=delay_s))
        story.sees(130, pending=11.0, **IDLE).sees(200, pending=0.0, **IDLE)
        assert story.counts == [1, 2, 1]
        times.append([d.at_s for d in story.decisions if d.changes][-1])
    assert times[1] - times[0] == pytest.approx(30.0, abs=2.0)


def test_kpa_decides_each_two_seconds_whatever_the_tick() -> None:
    """At a tick of 0.25 s one look in eight decides."""
    story = RuleStory(rule=KnativeKpa()).sees(8.25, pending=1.0, tick_s=0.25, **IDLE)
    at_s = [d.at_s for d in story.decisions if "in_panic" in d.terms]
    assert [b - a for a, b in itertools.pairwise(at_s)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("ongoing", "current", "up", "down", "count"),
    [
        (5.0, 2, 1.0, 1.0, 3),  # 5 / 2 = 2.5
        (4.0, 2, 1.0, 1.0, 2),
        (12.0, 2, 0.5, 1.0, 4),  # 2 + 0.5 · (6 - 2)
        (2.0, 4, 1.0, 0.5, 3),  # ceil(4 - 0.5 · 3) = ceil(2.5)
        (7.0, 4, 1.0, 0.2, 4),  # ceil(3.5) = 4 is no fewer
        (5.0, 4, 1.0, 0.1, 3),  # ceil(3.85) = 4 would be stuck for ever
    ],
)
def test_ray_wants_the_ongoing_requests_over_the_target(
    ongoing: float, current: int, up: float, down: float, count: int
) -> None:
    """With a gain on the difference, and never stuck on the way down."""
    rule = RayServe(upscaling_factor=up, downscaling_factor=down)
    assert rule.desired(ongoing, current) == count


def test_ray_goes_up_after_30_seconds_of_agreement() -> None:
    """The first decision agrees with itself only."""
    story = RuleStory(rule=RayServe()).sees(31, pending=5.0, **IDLE)
    assert story.counts == [1]
    story.sees(1, pending=5.0, **IDLE)
    assert story.counts == [1, 3]
    up = story.last
    assert (up.terms["agreed_s"], up.terms["delay_s"]) == (30.0, 30.0)


def test_one_disagreement_starts_rays_delay_again() -> None:
    """A quiet spell just before the end of the 30 s."""
    rule = RayServe(look_back_period_s=1.0, metrics_interval_s=1.0)
    story = RuleStory(rule=rule).sees(29, pending=5.0, **IDLE).sees(2, pending=2.0, **IDLE)
    story.sees(30, pending=5.0, **IDLE)
    assert story.counts == [1]
    assert story.sees(1, pending=5.0, **IDLE).counts == [1, 3]


def test_ray_goes_down_after_600_seconds() -> None:
    """Ten minutes for four idle instances, then at once to one."""
    story = RuleStory(rule=RayServe(), applied=settings(4))
    story.sees(600, pending=0.0, tick_s=2.0, **IDLE)
    assert story.counts == [4]
    assert story.sees(4, pending=0.0, tick_s=2.0, **IDLE).counts == [4, 1]


def test_ray_measures_each_ten_seconds() -> None:
    """Between two measurements it decides on the old one."""
    story = RuleStory(rule=RayServe(look_back_period_s=1.0)).sees(2, pending=2.0, **IDLE)
    story.sees(9, pending=50.0, **IDLE)
    assert story.last.terms["ongoing_count"] == 2.0
    assert story.sees(1, pending=50.0, **IDLE).last.terms["ongoing_count"] == 50.0


def test_the_ratio_of_queue_to_compute_scales_an_hpa() -> None:
    """6 ms of 10 ms in the queue: 1.5 of a target of 1, so ceil(3 · 1.5) = 5."""
    story = RuleStory(rule=HpaQueueCompute(), applied=settings(3))
    story.sees(16, request_s=0.010, queue_s=0.006)
    assert story.counts == [3, 5]
    up = next(d for d in story.decisions if d.changes)
    assert up.terms["metric"] == pytest.approx(1.5)


def test_a_backlog_makes_the_ratio_ask_for_many_times_the_instances() -> None:
    """20 in the queue for each 1 in inference: 2 → 6 (+4) → 12 → 24, the limit of each step."""
    story = RuleStory(rule=HpaQueueCompute(), applied=settings(2))
    story.sees(46, request_s=0.21, queue_s=0.2)
    assert story.counts == [2, 6, 12, 24]


def test_aimd_adds_and_takes_a_tenth() -> None:
    """10 → 12 within the objective, 10 → 9 beyond it, and 1 is the least."""
    rule = AimdBatching()
    assert next_size(10, rule, latency_s=0.05, slo_s=0.05) == 12
    assert next_size(10, rule, latency_s=0.051, slo_s=0.05) == 9
    assert next_size(4, rule, latency_s=1.0, slo_s=0.05) == 3
    assert next_size(1, rule, latency_s=1.0, slo_s=0.05) == 1


def test_aimd_grows_to_the_verified_size_with_a_cooldown_between_reloads() -> None:
    """8, 10, 12, ... each 30 s; 32 is what the policy allows."""
    story = RuleStory(rule=AimdBatching(), policy=a_policy(max_batch_size=13))
    story.sees(200, request_s=0.01)
    sizes = [d.desired.max_batch_size for d in story.decisions if d.changes and d.desired]
    assert sizes == [10, 12, 13]
    at_s = [d.at_s for d in story.decisions if d.changes]
    assert [b - a for a, b in itertools.pairwise(at_s)] == [30.0, 30.0]
    assert story.applied.instances == 1


def test_aimd_backs_off_while_the_objective_is_missed() -> None:
    """p99 where it is known, whatever the mean says."""
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=20)).sees(11, request_s=0.2)
    assert story.applied.max_batch_size == 18
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=20))
    story.sees(11, request_s=0.01, request_p99_s=0.2)
    assert story.applied.max_batch_size == 18


def test_aimd_turns_batching_on_from_one() -> None:
    """Without dynamic batching every batch is one request."""
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=8, dynamic=False)).sees(11)
    assert (story.applied.max_batch_size, story.applied.dynamic_batching) == (3, True)


def test_aimd_leaves_what_must_not_be_batched() -> None:
    """A model without a batch axis, or whose batching means something."""
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=0, dynamic=False)).sees(40)
    assert not any(d.changes for d in story.decisions)
    story = RuleStory(rule=AimdBatching()).sees(40, can_rebatch=False)
    assert not any(d.changes for d in story.decisions)
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=8))
    story.sees(60, request_s=0.2, least_batch_size=8)
    assert not any(d.changes for d in story.decisions)
    story = RuleStory(rule=AimdBatching(), applied=settings(batch=8))
    story.sees(60, request_s=0.2, statistics=ModelStatistics(inference_count=8, success_count=1))
    assert not any(d.changes for d in story.decisions)


def test_aimd_with_an_hpa_moves_both() -> None:
    """Utilisation 0.9 of 0.7 asks for more instances, the latency for a larger batch."""
    story = RuleStory(rule=AimdBatchingHpa(), applied=settings(4)).sees(14, utilisation=0.9)
    assert story.applied == settings(6, batch=10)
    assert story.last.reason in (Reason.SCALE_BY_RULE, Reason.HOLD_RULE)
    story = RuleStory(rule=AimdBatching(), applied=settings(4)).sees(14, utilisation=0.9)
    assert story.applied == settings(4, batch=10)
