"""The base configuration: what an expert would set, from measured times."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from control.core.judgement.judge import Watch, fails
from control.core.judgement.period import Period
from control.core.memory.bounds import least_batch_limit
from control.core.need.base import LIKE, TRANSPORT_S, BasePlan, base_plan
from control.core.policy import Policy
from control.core.queue_model.capacity import capacity_rps
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.reasons import Reason
from control.core.service.learnt import Learnt, ServiceTime
from control.core.types import Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE, Story, a_policy, settings

FREE = a_policy(idle_cost=0.0)
DEFAULT = settings(1, batch=32, dynamic=False)


def _plan(
    applied: Settings,
    service: ServiceTime,
    rate_rps: float,
    policy: Policy,
    *,
    threads_ours: bool = False,
    least_batch_size: int = 1,
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    count: int = 500,
    **more: Any,
) -> BasePlan:
    """A plan from evidence of this service time at the applied count, one thread."""
    stats = {b: BatchStat(count=count, busy_s=count * service.of(b)) for b in sizes}
    learnt = Learnt().absorb(
        ModelStatistics(batches=stats), instances=applied.instances, threads=1, span_s=1
    )
    known = Knowledge(
        learnt=learnt,
        policy=policy,
        threads=1,
        threads_ours=threads_ours,
        least_batch_size=least_batch_size,
        **more,
    )
    return base_plan(applied, known, need_rps=rate_rps)


def test_plan_turns_batching_on_where_the_fixed_cost_is_large() -> None:
    """β = 4α and an SLO of 50 ms: batching carries more than twice as much."""
    plan = _plan(DEFAULT, TRUE, 100.0, a_policy())
    assert plan.settings.dynamic_batching
    assert plan.gain > 2
    assert plan.capacity_rps > 2 * plan.applied_capacity_rps


CURVES = {
    "linear": ServiceTime(alpha_s=0.005, beta_s=0.0),
    "flat": ServiceTime(alpha_s=0.0, beta_s=0.02),
    "half": ServiceTime(alpha_s=0.002, beta_s=0.004),
    "stepped": ServiceTime(
        alpha_s=0.001, beta_s=0.0, table=((1, 0.010), (8, 0.012), (9, 0.024), (16, 0.026))
    ),
}


@pytest.mark.parametrize("slo_s", [0.05, 0.2])
@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("name", CURVES)
def test_plan_carries_nearly_as_much_as_the_best_by_exhaustive_search(
    name: str, cores: int, slo_s: float
) -> None:
    """Every batch size and count that is allowed, by the simulator and the true times."""
    policy = replace(FREE, max_instances=cores, cores=cores, max_batch_size=16, slo_s=slo_s)
    true = CURVES[name]
    plan = _plan(DEFAULT, true, 100.0, policy, sizes=(1, 2, 4, 8, 16)).settings

    def carried(batch: int, instances: int) -> float:
        return capacity_rps(
            true,
            instances=instances,
            largest_batch=batch,
            max_queue_delay_s=0.0,
            policy=policy,
        )

    best = max(carried(b, c) for b in range(1, 17) for c in range(1, cores + 1))
    assert carried(plan.max_batch_size, plan.instances) >= (1.0 - 2 * LIKE) * best


@pytest.mark.parametrize("slo_s", [0.05, 0.2])
@pytest.mark.parametrize("name", CURVES)
def test_twenty_fresh_starts_make_nearly_the_same_plan(name: str, slo_s: float) -> None:
    """Five batches of each size, whose means err by 2 %; a step near half the SLO costs most."""
    policy = replace(FREE, max_instances=3, cores=3, max_batch_size=16, slo_s=slo_s)
    true, random = CURVES[name], np.random.default_rng(1)
    carried = set()
    for _ in range(20):
        errs = dict(zip((1, 2, 4, 8, 16), random.normal(1.0, 0.02, 5), strict=True))
        seen = SimpleNamespace(of=lambda size, errs=errs: true.of(size) * errs[size])
        plan = _plan(DEFAULT, seen, 100.0, policy, sizes=tuple(errs), count=5).settings  # type: ignore[arg-type]
        assert plan.instances == 3
        carried.add(
            capacity_rps(
                true,
                instances=3,
                largest_batch=plan.max_batch_size,
                max_queue_delay_s=0.0,
                policy=policy,
            )
        )
    assert min(carried) >= 0.85 * max(carried)


def test_plan_takes_the_largest_of_batches_that_are_alike() -> None:
    """Without a fixed cost a batch of 32 carries no more than one, and costs little."""
    flat = ServiceTime(alpha_s=0.0005, beta_s=0.0)
    plan = _plan(DEFAULT, flat, 50.0, a_policy(slo_s=1.0))
    assert plan.settings.max_batch_size == 32
    assert plan.gain < 1.2


class _NoisyMinute:
    """8 ms a row; a neighbour worked while batches of more than one were measured."""

    def of(self, size: int) -> float:
        """Seconds of a batch."""
        return 0.008 * size * (1.0 if size == 1 else 1.4)


def test_a_noisy_measurement_makes_no_batch_of_one() -> None:
    """By these times single requests carry most; a larger batch costs little if they are wrong."""
    policy = a_policy(slo_s=0.15, max_batch_size=16)
    applied = settings(2, batch=16)
    plan = _plan(applied, _NoisyMinute(), 50.0, policy, sizes=(1, 2, 4, 8, 16))  # type: ignore[arg-type]
    assert plan.settings.max_batch_size in (2, 4, 8)
    assert plan.settings.max_batch_size * 0.008 * 1.4 * 4 > 0.15 / 2


def test_a_cliff_beyond_small_batches_is_no_noise() -> None:
    """Batches of 5 and more take seven times as long: four carry three times as much."""
    cliff = ServiceTime(
        alpha_s=0.001, beta_s=0.0, table=((1, 0.010), (4, 0.012), (5, 0.080), (16, 0.100))
    )
    policy = a_policy(slo_s=0.4, max_batch_size=16)
    assert _plan(settings(2, batch=16), cliff, 50.0, policy).settings.max_batch_size == 4


def test_plan_says_nothing_of_batches_that_were_not_measured() -> None:
    """Up to four were: what a line makes of 32 is a guess."""
    plan = _plan(DEFAULT, TRUE, 100.0, a_policy(), sizes=(1, 2, 4))
    assert plan.settings.max_batch_size == 4


def test_plan_fills_the_cores_with_instances_and_threads() -> None:
    """More instances of fewer threads carry more, as far as the policy allows; a GPU's stay."""
    policy = replace(FREE, max_instances=2)
    ours = _plan(DEFAULT, TRUE, 100.0, policy, threads_ours=True).settings
    assert (ours.instances, ours.threads) == (2, 2)
    wide = _plan(DEFAULT, TRUE, 100.0, FREE, threads_ours=True).settings
    assert (wide.instances, wide.threads) == (4, 1)
    kept = _plan(replace(DEFAULT, threads=7), TRUE, 100.0, policy)
    assert kept.settings.threads == 7


def test_plan_is_for_the_load_where_idle_instances_have_a_price() -> None:
    """All of four where they have none; one where it carries 100/s."""
    free = _plan(DEFAULT, TRUE, 100.0, a_policy(idle_cost=0.0)).settings
    dear = _plan(DEFAULT, TRUE, 100.0, a_policy(idle_cost=1e5)).settings
    assert (free.instances, dear.instances) == (4, 1)


def test_plan_keeps_the_batch_that_an_ensemble_needs() -> None:
    """Below 8 Triton refuses the ensemble, whatever carries most."""
    tight = replace(FREE, slo_s=0.012)
    free = _plan(DEFAULT, TRUE, 100.0, tight)
    assert free.settings.max_batch_size < 8
    assert _plan(DEFAULT, TRUE, 100.0, tight, least_batch_size=8).settings.max_batch_size == 8
    small = replace(tight, max_batch_size=4)
    assert _plan(DEFAULT, TRUE, 100.0, small, least_batch_size=8).settings.max_batch_size == 8


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
    assert least_batch_limit(seen) == least
    assert least_batch_limit(replace(seen, least_batch_size=64)) == 64
    assert least_batch_limit(replace(seen, counters=None)) == 1


def test_one_request_of_more_items_since_the_load_is_enough() -> None:
    """The statistics are of one instant: nothing is rounded off. What the cache answers is none."""
    loaded = ModelStatistics(inference_count=1000, success_count=1500, cache_hits=500)
    many = ModelCounters(success=1e7, inference_count=1e7)
    seen = Observation(at_s=0.0, tick_id="t", counters=many, statistics=loaded, applied=DEFAULT)
    assert least_batch_limit(seen) == 1
    loaded = replace(loaded, inference_count=1001)
    assert least_batch_limit(replace(seen, statistics=loaded)) == 32


def test_plan_stays_within_the_policys_batch() -> None:
    """The model was not verified beyond it."""
    plan = _plan(DEFAULT, TRUE, 100.0, a_policy(max_batch_size=6, slo_s=1.0))
    assert plan.settings.max_batch_size <= 6


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


@pytest.mark.parametrize("rebatch", [True, False])
def test_plan_limits_the_waiting_to_what_can_still_be_in_time(rebatch: bool) -> None:
    """S 200 ms, ℓ(32) 36 ms; also where the batching is not ours to change, but for its delay."""
    policy = replace(FREE, slo_s=0.2, refuse_late=True, max_instances=1)
    applied = settings(1, batch=32, delay_s=0.005)
    stats = {b: BatchStat(count=50, busy_s=50 * TRUE.of(b)) for b in (1, 2, 4, 8, 16, 32)}
    learnt = Learnt().absorb(ModelStatistics(batches=stats), instances=1, threads=1, span_s=1)
    known = Knowledge(learnt=learnt, policy=policy, threads=1, threads_ours=False, refuses=True)
    plan = base_plan(applied, known, need_rps=10.0, rebatch=rebatch)
    assert plan.settings.refuse_after_s == pytest.approx(
        0.18 - TRUE.of(32) - TRANSPORT_S, abs=0.002
    )
    assert plan.settings.max_queue_delay_s == 0.0
    assert plan.pays(applied)
    assert not plan.pays(plan.settings)
    waits = replace(known, refuses=False)
    assert base_plan(plan.settings, waits, need_rps=10.0, rebatch=rebatch).pays(plan.settings)
    left = base_plan(plan.settings, replace(known, refuses=None), need_rps=10.0, rebatch=rebatch)
    assert left.settings.refuse_after_s == plan.settings.refuse_after_s


def test_refusing_begins_amid_an_overload_and_is_not_judged_for_what_it_refuses() -> None:
    """One reload; an owner's own limit is kept, and so is any other queue policy of his."""
    policy = a_policy(refuse_late=True, rebatch=False, idle_cost=0.0, max_instances=1)
    story = Story(policy=policy, applied=settings(1, batch=8)).passes(30, load_rps=1000)
    assert [d.reason for d in story.changes] == [Reason.REBATCH]
    assert story.applied.refuse_after_s == pytest.approx(
        0.045 - TRUE.of(8) - TRANSPORT_S, abs=0.002
    )
    owner = replace(settings(1), refuse_after_s=1.0)
    for may, owned in ((False, None), (True, owner)):
        kept = Story(policy=policy, applied=settings(1, batch=8), gauges={"may_refuse": may})
        kept.state = replace(kept.state, owner=owned)
        assert kept.passes(30, load_rps=1000).changes == []
    period = Period(span_s=10.0, arrivals=100.0, completed=100.0, ended=100.0, came=100.0)
    refused = replace(period, completed=50.0, failed=50.0, rejected=50.0)
    watch = Watch(
        since_s=0.0,
        settings=story.applied,
        good=settings(1, batch=8),
        before=period,
        after=refused,
    )
    assert not fails(watch)
    assert fails(replace(watch, after=replace(refused, rejected=0.0)))


def test_requests_wait_for_each_other_where_executions_take_turns() -> None:
    """For an eighth of the SLO; what is set stays, and so does what the owner set."""
    policy, eight = replace(FREE, slo_s=0.4, max_batch_size=8), settings(1, batch=8)
    alone = _plan(eight, TRUE, 50.0, policy)
    shared = _plan(eight, TRUE, 50.0, policy, shares_slots=True)
    assert alone.settings.max_queue_delay_s == 0.0
    assert not alone.pays(eight)
    assert shared.settings.max_queue_delay_s == pytest.approx(0.4 / 8)
    assert shared.pays(eight)
    own = settings(1, batch=8, delay_s=0.02)
    for there in (shared.settings, own):
        again = _plan(there, TRUE, 50.0, policy, shares_slots=True)
        assert again.settings.max_queue_delay_s == there.max_queue_delay_s
        assert not again.pays(there)


@pytest.mark.parametrize("refuses", [True, None])
def test_no_request_waits_for_others_where_late_ones_are_refused(refuses: bool | None) -> None:
    """By us or by the owner: on Triton before 26.08 a limit and a delay together lose count."""
    limited = replace(settings(1, batch=8), refuse_after_s=0.1)
    policy = replace(FREE, slo_s=0.4, max_batch_size=8)
    plan = _plan(limited, TRUE, 50.0, policy, shares_slots=True, refuses=refuses)
    assert plan.settings.refuse_after_s is not None
    assert plan.settings.max_queue_delay_s == 0.0
