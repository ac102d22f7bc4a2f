"""The slow knob: which batch size and delay."""

from __future__ import annotations

from control.core.planner import plan_batching
from control.core.service_time import ServiceTime
from tests.unit.story import TRUE, a_policy, settings

DEFAULT = settings(1, batch=32, dynamic=False)


def test_plan_turns_batching_on_where_the_fixed_cost_is_large() -> None:
    """β = 4α and an SLO of 50 ms: batching carries more than twice as much."""
    plan = plan_batching(DEFAULT, TRUE, TRUE, 100.0, a_policy())
    assert plan.settings.dynamic_batching
    assert plan.gain > 2
    assert plan.capacity_rps > 2 * plan.applied_capacity_rps


def test_plan_sees_no_gain_where_there_is_no_fixed_cost() -> None:
    """β = 0: a batch of 8 takes 8 times as long, so batching buys nothing."""
    linear = ServiceTime(alpha_s=0.005, beta_s=0.0)
    plan = plan_batching(DEFAULT, linear, linear, 50.0, a_policy())
    assert plan.gain < 1.2


def test_plan_takes_the_smallest_batch_that_carries_nearly_the_most() -> None:
    """Larger batches than needed only make the first instance greedy."""
    plan = plan_batching(DEFAULT, TRUE, TRUE, 100.0, a_policy(slo_s=0.02))
    assert plan.settings.max_batch_size < 32


def test_plan_keeps_the_instance_count() -> None:
    """Instances belong to the fast loop."""
    plan = plan_batching(settings(3, dynamic=False), TRUE, TRUE, 100.0, a_policy())
    assert plan.settings.instances == 3


def test_plan_adds_a_delay_where_it_saves_work() -> None:
    """At 200/s a delay of a few ms saves a fifth of the busy time, well inside 200 ms."""
    plan = plan_batching(DEFAULT, TRUE, TRUE, 200.0, a_policy(slo_s=0.2))
    assert plan.settings.max_queue_delay_s > 0


def test_plan_stays_within_the_policys_batch() -> None:
    """The model was not verified beyond it."""
    plan = plan_batching(DEFAULT, TRUE, TRUE, 100.0, a_policy(max_batch_size=6, slo_s=1.0))
    assert plan.settings.max_batch_size <= 6
