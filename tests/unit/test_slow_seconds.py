"""How much slower the slow seconds of a shared machine are, and what capacity that leaves."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.queue_model.knowledge import Knowledge
from control.core.reasons import Reason
from control.core.service.evidence import KEPT_BATCHES, Compared, Evidence
from control.core.service.learnt import Learnt, ServiceTime
from control.core.service.slow_seconds import LEAST, MOST, NORMAL, WITHIN_MARGINS, SlowSeconds, Z
from control.core.service.versions import Versions, learnt_of
from serving.statistics import BatchStat
from tests.unit.evidence import after, executed
from tests.unit.story import TRUE, Story, a_policy, held_for, in_flight, settings

ONE = (1, 1)


def seconds(
    *ratios: float,
    setting: tuple[int, int] = ONE,
    span_s: float = 1.0,
    each: float = 100.0,
    since: SlowSeconds | None = None,
) -> SlowSeconds:
    """After looks of ``span_s`` whose work was so many times the usual, of ``each`` batches/s."""
    slow = since or SlowSeconds()
    for ratio in ratios:
        took = Compared(ratio * span_s, span_s, each * span_s)
        slow = slow.absorb(took, span_s=span_s, setting=setting)
    return slow


def test_a_steady_machine_takes_nothing_off() -> None:
    """Seconds that differ by 1 %, as those of the emulated accelerator do."""
    assert seconds(*islice(cycle((0.99, 1.01)), 300)).slower == 1.0


def test_a_shared_machine_is_slower_by_two_deviations_less_the_margins() -> None:
    """Every other second is a tenth slower, and a tenth faster: a mean deviation of a tenth."""
    slower = seconds(*islice(cycle((0.9, 1.1)), 600)).slower
    assert slower == pytest.approx(1.0 + Z * NORMAL * 0.1 - WITHIN_MARGINS, rel=0.03)


def test_the_first_seconds_prove_little() -> None:
    """What is learnt of a curve in the beginning is rough."""
    few = seconds(*islice(cycle((0.9, 1.1)), 4)).slower
    assert few < seconds(*islice(cycle((0.9, 1.1)), 60)).slower


def test_one_odd_second_in_a_minute_is_none() -> None:
    """A collection of garbage, a backup that begins."""
    steady = seconds(*[1.0] * 120)
    assert seconds(3.0, *[1.0] * 5, since=steady).slower == 1.0


def test_another_load_is_no_slow_second_for_long() -> None:
    """Instances that work beside each other are slower all the time, not now and then."""
    steady = seconds(*[1.0] * 120)
    at_first = seconds(*[1.3] * 15, since=steady).slower
    assert at_first > 1.0
    assert seconds(*[1.3] * 300, since=steady).slower == 1.0


def test_looks_are_joined_to_seconds() -> None:
    """Looks of a fifth of a second differ by much more than seconds do."""
    slices = (0.8, 1.2, 0.8, 1.2, 1.0)
    assert seconds(*islice(cycle(slices), 600), span_s=0.2).slower == 1.0
    assert seconds(*islice(cycle(slices), 600), span_s=1.0).slower > 1.1


def test_few_batches_are_joined_until_they_say_something() -> None:
    """Two batches a second scatter by a fifth: that is no slow second."""
    scatter = np.random.default_rng(3).normal(1.0, 0.2 / math.sqrt(2), 600).tolist()
    assert seconds(*scatter, each=2.0).slower < 1.06
    assert seconds(*scatter, each=200.0).slower > 1.2


def test_a_change_of_the_settings_begins_another_second() -> None:
    """Half a second of one and half a second of two instances say nothing together."""
    before = seconds(*islice(cycle((0.9, 1.1)), 60))
    half = seconds(5.0, since=before, span_s=0.5)
    assert half.span_s == 0.5
    changed = seconds(1.0, since=half, setting=(2, 1), span_s=0.5)
    assert (changed.busy_s, changed.span_s, changed.level) == (0.5, 0.5, None)
    assert changed.slower == before.slower


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4), st.integers(1, 3)),
        max_size=40,
    )
)
def test_whatever_is_seen_the_ratio_has_limits(
    looks: list[tuple[float, float, float, int]],
) -> None:
    """Never below 1, never above what the largest single deviation gives; always a number."""
    slow = SlowSeconds()
    for busy_s, usual_s, span_s, instances in looks:
        took = Compared(busy_s, usual_s, 100.0)
        slow = slow.absorb(took, span_s=span_s, setting=(instances, 1))
        assert 1.0 <= slow.slower <= 1.0 + Z * NORMAL * max(MOST - 1.0, 1.0 - LEAST)
        assert math.isfinite(slow.slower)


def test_only_sizes_that_are_known_are_compared() -> None:
    """A mean of fewer than five batches is itself the odd one."""
    few, enough = int(KEPT_BATCHES) - 1, int(KEPT_BATCHES)
    known = Evidence().absorb(
        {1: BatchStat(count=few, busy_s=1.0), 4: BatchStat(count=enough, busy_s=1.0)},
        span_s=3.0,
        seen_s=0.0,
    )
    now = {size: BatchStat(count=10, busy_s=3.0) for size in (1, 4, 8)}
    assert known.compared(now) == pytest.approx((3.0, 10 / enough, 10))


def test_seconds_of_our_own_loading_do_not_count() -> None:
    """Instances that load beside the others make them slow, by our own doing."""
    learnt = _learnt(1.0)
    for _ in range(10):
        statistics = executed(TRUE, 1.5, b1=20, b4=20, b8=20)
        learnt = learnt.absorb(statistics, instances=1, threads=1, span_s=1, loading=True)
    assert learnt.slow == _learnt(1.0).slow
    story = Story().passes(30, load_rps=300)
    flying = replace(story.state, in_flight=in_flight(settings(2)))
    story.state = flying
    story.tick(300)
    assert story.state.learnt.seen != flying.learnt.seen
    assert story.state.learnt.slow == flying.learnt.slow


def test_another_version_has_the_slow_seconds_of_now() -> None:
    """They are the machine's: one that was last seen on a quiet night would seem to carry more."""
    uneven, quiet = _learnt(0.9, 1.1), _learnt(1.0)
    policy = a_policy(versions=(1, 2, 3))
    for memory in (Versions(), Versions(others={2: quiet})):
        other = learnt_of(memory, uneven, 1, 2, policy, threads=1)
        assert other.slow.slower == uneven.slow.slower > 1.1


def _learnt(*factors: float) -> Learnt:
    """From 200 seconds at one instance, slower by these factors in turn."""
    turns = cycle(factors)
    return after(200, lambda: executed(TRUE, next(turns), b1=20, b4=20, b8=20))


def test_capacity_is_that_of_a_slow_second() -> None:
    """Of one count and of all of them, by the same ratio."""
    known = Knowledge(learnt=_learnt(0.9, 1.1), policy=a_policy(), threads=1, threads_ours=False)
    ratio = known.learnt.slow.slower
    assert ratio > 1.1
    steady = replace(known, learnt=replace(known.learnt, slow=SlowSeconds()))
    for count, carried_rps in steady.capacities(settings()).items():
        assert known.capacities(settings())[count] == pytest.approx(carried_rps / ratio)
        usual_rps = steady.capacity_rps(settings(), count)
        assert known.capacity_rps(settings(), count) == pytest.approx(usual_rps / ratio)


def test_a_count_that_a_backlog_called_for_is_held_for_the_quiet_time() -> None:
    """The machine stood still for a second; by the load for sure, one would do all the time."""
    stands_still = ServiceTime(alpha_s=0.0, beta_s=10.0)
    story = Story(curves={1: TRUE}, policy=a_policy(idle_cost=held_for(40))).passes(
        60, load_rps=350
    )
    story.passes(40, load_rps=540)
    assert story.changes == []
    story.curves = {1: stands_still}
    story.tick(620)
    assert story.last.terms["load_rps"] < story.last.terms["capacity_1_rps"]
    story.curves = {1: TRUE}
    story.passes(38, load_rps=540)
    assert [change.reason for change in story.changes] == [Reason.SCALE_UP_BACKLOG]
    story.passes(10, load_rps=540)
    assert [change.reason for change in story.changes][1:] == [Reason.SCALE_DOWN]
