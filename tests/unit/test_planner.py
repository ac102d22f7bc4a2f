"""The slow knob: which batch size and delay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.need.batching import BatchingPlan, plan_batching
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.service.learnt import Learnt, ServiceTime
from control.core.types import Observation, Policy, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE, a_policy, settings

DEFAULT = settings(1, batch=32, dynamic=False)


def _plan(
    applied: Settings,
    service: ServiceTime,
    rate_rps: float,
    policy: Policy,
    *,
    threads_ours: bool = False,
    least_batch_size: int = 1,
) -> BatchingPlan:
    """A plan from evidence of this service time at the applied count, one thread."""
    stats = {b: BatchStat(count=500, busy_s=500 * service.of(b)) for b in (1, 2, 4, 8, 16, 32)}
    learnt = Learnt().absorb(
        ModelStatistics(batches=stats), instances=applied.instances, threads=1, span_s=1
    )
    known = Knowledge(
        learnt=learnt,
        policy=policy,
        threads=1,
        threads_ours=threads_ours,
        least_batch_size=least_batch_size,
    )
    return plan_batching(applied, known, rate_rps=rate_rps, need_rps=rate_rps)


def test_plan_turns_batching_on_where_the_fixed_cost_is_large() -> None:
    """β = 4α and an SLO of 50 ms: batching carries more than twice as much."""
    plan = _plan(DEFAULT, TRUE, 100.0, a_policy())
    assert plan.settings.dynamic_batching
    assert plan.gain > 2
    assert plan.capacity_rps > 2 * plan.applied_capacity_rps


def test_plan_sees_no_gain_where_there_is_no_fixed_cost() -> None:
    """β = 0: a batch of 8 takes 8 times as long, so batching buys nothing."""
    linear = ServiceTime(alpha_s=0.005, beta_s=0.0)
    assert _plan(DEFAULT, linear, 50.0, a_policy()).gain < 1.2


def test_plan_takes_the_smallest_batch_that_carries_nearly_the_most() -> None:
    """Larger batches than needed only make the first instance greedy."""
    assert _plan(DEFAULT, TRUE, 100.0, a_policy(slo_s=0.02)).settings.max_batch_size < 32


def test_plan_leaves_the_last_tenth_to_batches_that_were_seen() -> None:
    """MiniLM's line through small batches: 32 at once would carry 8 % more than 8."""
    minilm = ServiceTime(alpha_s=0.00193, beta_s=0.00193)
    plan = _plan(DEFAULT, minilm, 350.0, a_policy(slo_s=0.5, max_instances=1))
    assert plan.settings.max_batch_size == 8
    steeper = replace(minilm, beta_s=0.008)
    plan = _plan(DEFAULT, steeper, 200.0, a_policy(slo_s=0.5, max_instances=1))
    assert plan.settings.max_batch_size == 32


@pytest.mark.parametrize(
    ("requests", "items", "least"),
    [
        pytest.param(1000, 1000, 1, id="of one item each"),
        pytest.param(1000, 1030, 1, id="counters that are not of one instant"),
        pytest.param(1000, 1500, 32, id="some of more"),
        pytest.param(0, 0, 1, id="none yet"),
    ],
)
def test_no_limit_below_what_requests_bring(requests: int, items: int, least: int) -> None:
    """Triton refuses a request of more items than ``max_batch_size``."""
    counted = ModelCounters(success=requests + 500.0, cache_hits=500.0, inference_count=items)
    seen = Observation(at_s=0.0, tick_id="t", counters=counted, statistics=None, applied=DEFAULT)
    assert seen.least_batch_limit == least
    assert replace(seen, least_batch_size=64).least_batch_limit == 64
    assert replace(seen, counters=None).least_batch_limit == 1


def test_one_request_of_more_items_since_the_load_is_enough() -> None:
    """The statistics are of one instant: nothing is rounded off. What the cache answers is none."""
    loaded = ModelStatistics(inference_count=1000, success_count=1500, cache_hits=500)
    many = ModelCounters(success=1e7, inference_count=1e7)
    seen = Observation(at_s=0.0, tick_id="t", counters=many, statistics=loaded, applied=DEFAULT)
    assert seen.least_batch_limit == 1
    loaded = replace(loaded, inference_count=1001)
    assert replace(seen, statistics=loaded).least_batch_limit == 32


def test_plan_takes_the_fewest_instances_that_carry_the_load() -> None:
    """Three are applied; with batching one is enough for 100/s."""
    assert _plan(settings(3, dynamic=False), TRUE, 100.0, a_policy()).settings.instances == 1


def test_plan_adds_a_delay_where_it_saves_work() -> None:
    """At 200/s a delay of a few ms saves a fifth of the busy time, well inside 200 ms."""
    assert _plan(DEFAULT, TRUE, 200.0, a_policy(slo_s=0.2)).settings.max_queue_delay_s > 0


def test_plan_stays_within_the_policys_batch() -> None:
    """The model was not verified beyond it."""
    plan = _plan(DEFAULT, TRUE, 100.0, a_policy(max_batch_size=6, slo_s=1.0))
    assert plan.settings.max_batch_size <= 6


def test_plan_gives_every_allowed_instance_cores_of_its_own() -> None:
    """4 cores and at most 2 instances: 2 threads each; a GPU model's threads are not ours."""
    policy = a_policy(max_instances=2)
    assert _plan(DEFAULT, TRUE, 100.0, policy, threads_ours=True).settings.threads == 2
    kept = _plan(replace(DEFAULT, threads=7), TRUE, 100.0, policy)
    assert kept.settings.threads == 7


def test_plan_keeps_the_batch_that_an_ensemble_needs() -> None:
    """Without a gain from batching it would take 1; below 8 Triton refuses the ensemble."""
    flat = ServiceTime(alpha_s=0.005, beta_s=0.0)
    free = _plan(DEFAULT, flat, 100.0, a_policy())
    assert free.settings.max_batch_size < 8
    held = _plan(DEFAULT, flat, 100.0, a_policy(), least_batch_size=8)
    assert held.settings.max_batch_size == 8
    held = _plan(DEFAULT, flat, 100.0, a_policy(max_batch_size=4), least_batch_size=8)
    assert held.settings.max_batch_size == 8


def test_an_instance_that_adds_next_to_nothing_is_not_added() -> None:
    """In an overload, too: it would take its time to load and leave the queue as it is."""
    assert fewest({1: 183.0, 2: 185.0}, 300.0) == 1
    assert fewest({1: 183.0, 2: 240.0}, 300.0) == 2
    assert fewest({1: 0.0, 2: 10.0}, 300.0) == 2
    linear = {count: 10.0 * count for count in range(1, 65)}
    assert fewest(linear, 633.0) == 64


def test_more_load_never_takes_fewer_instances() -> None:
    """Whatever the curve of the capacities."""
    capacities = {1: 183.0, 2: 185.0, 3: 192.0, 4: 190.0, 5: 260.0}
    counts = [fewest(capacities, float(need)) for need in range(100, 400)]
    assert counts == sorted(counts)
    assert counts[-1] == 5
