"""A reload leaves the old copy at work on the cores of the new one: what is not believed then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.judgement.judge import Watch
from control.core.load.windows import Interval
from control.core.memory.state import ControlState
from control.core.reasons import Reason
from control.core.service.learnt import Learnt
from control.core.types import Observation
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.intervals import timed
from tests.unit.story import Story, a_policy, settings

POLICY = a_policy()


def _executed(items: int, *, size: int = 8) -> ModelStatistics:
    count = items // size
    return ModelStatistics(
        inference_count=items,
        execution_count=count,
        success_count=items,
        batches={size: BatchStat(count=count, busy_s=0.05 * count)},
    )


def _interval(items: float, own: int) -> Interval:
    return replace(timed(), inferences=items, statistics=_executed(own))


@pytest.mark.parametrize(
    ("items", "own", "works"),
    [
        (400.0, 400, False),
        (400.0, 368, False),  # less than a tenth: not sampled at the same instant
        (400.0, 352, True),
        (40.0, 32, False),  # one batch
        (400.0, 440, False),
    ],
)
def test_who_did_the_work(items: float, own: int, works: bool) -> None:
    """The counters are of all copies, the statistics of the newest."""
    assert _interval(items, own).old_copy_works is works
    assert not replace(_interval(items, own), statistics=None).old_copy_works


def _look(at_s: float, items: float, own: int) -> Observation:
    return Observation(
        at_s=at_s,
        tick_id=f"{at_s}",
        counters=ModelCounters(success=items, inference_count=items),
        statistics=_executed(own),
        applied=settings(2),
    )


@pytest.mark.parametrize(("items", "learns"), [(400.0, True), (800.0, False)])
def test_nothing_is_learnt_beside_an_old_copy(items: float, learns: bool) -> None:
    """Its batches are on the same cores."""
    state = ControlState().absorb(_look(1000.0, 0.0, 0), POLICY)
    state = state.absorb(_look(1001.0, items, 400), POLICY)
    assert bool(state.learnt.seen) is learns


@pytest.mark.parametrize(("known_s", "learns"), [(0.05, True), (0.045, False)])
def test_what_is_as_quick_as_ever_is_learnt_beside_an_old_copy(
    known_s: float, learns: bool
) -> None:
    """Batches that took 50 ms or 45 ms before take 50 ms: the second kind is disturbed."""
    stat = BatchStat(count=100, busy_s=100 * known_s)
    one = ModelStatistics(batches={8: stat})
    known = Learnt().absorb(one, instances=1, threads=1, span_s=10.0)
    state = ControlState(learnt=known).absorb(_look(1000.0, 0.0, 0), POLICY)
    state = state.absorb(_look(1001.0, 800.0, 400), POLICY)
    assert ((2, 1) in state.learnt.seen) is learns


def test_nothing_is_judged_beside_an_old_copy_but_failures() -> None:
    """What is slow then is slow for two."""
    watch = Watch(since_s=900.0, settings=settings(2, batch=32), good=settings(2))
    beside = watch.with_interval(replace(_interval(400.0, 200), end_s=1001.0, failed=3.0), POLICY)
    assert beside.after.completed == 0.0
    assert beside.after.failed == 3.0


def test_a_cold_start_under_a_backlog_plans_after_two_seconds() -> None:
    """Single requests carry 200/s: 500/s are met by batches before the window is full."""
    policy = a_policy(rebatch=True, max_instances=1, cores=1, stable_window_s=20.0)
    story = Story(policy=policy, applied=settings(1, dynamic=False)).measured()
    story.passes(5, load_rps=500)
    assert [d.reason for d in story.changes] == [Reason.REBATCH]
    assert story.reasons.index(Reason.REBATCH) <= 3
    calm = Story(policy=policy, applied=settings(1, dynamic=False)).measured()
    calm.passes(5, load_rps=50)
    assert calm.changes == []


def test_no_batching_is_planned_beside_an_old_copy() -> None:
    """A reload more would leave one more queue behind."""
    policy = a_policy(rebatch=True, max_instances=1, cores=1, stable_window_s=20.0)
    story = Story(policy=policy, applied=settings(1, dynamic=False), obeys=False)
    story.measured().passes(2, load_rps=500)
    for _ in range(4):
        more = story.counters.inference_count + 300.0
        story.counters = replace(story.counters, inference_count=more)
        story.tick(500)
        assert story.last.reason is Reason.HOLD_WARMING_UP
    assert story.passes(1, load_rps=500).last.reason is Reason.REBATCH
