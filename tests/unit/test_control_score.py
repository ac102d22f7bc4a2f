"""The arithmetic of a run's score, on runs made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from control.core.types import Settings
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.control.score import Spread, over_provisioning, score, spread

TWO = Settings(instances=2, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)
FOUR = replace(TWO, instances=4)


def run_of(
    late_s: tuple[tuple[float, float], ...] = (), *, rate_rps: float = 100.0, seconds: float = 100.0
) -> ControlRun:
    """Evenly spaced requests of 0.1 s; those that came in ``late_s`` took 0.5 s. SLO 0.4 s."""
    intended_s = np.arange(0.0, seconds, 1.0 / rate_rps)
    latency_s = np.full(intended_s.size, 0.1)
    for start, end in late_s:
        latency_s[(intended_s >= start) & (intended_s < end)] = 0.5
    return ControlRun(
        rule="by hand",
        trace_name="even",
        description="even",
        seed=1,
        simulated=True,
        slo_s=0.4,
        duration_s=seconds,
        intended_s=intended_s,
        latency_s=latency_s,
        paid=((-10.0, 2), (20.0, 4), (60.0, 2)),
        controller_cpu_s=0.5,
    )


def change(begun_s: float, ended_s: float, *, reload: bool = False, ok: bool = True) -> ChangeMade:
    """2 → 4."""
    return ChangeMade(
        begun_s=begun_s,
        ended_s=ended_s,
        reason="SCALE_UP_LOAD",
        before=TWO,
        after=FOUR,
        reload=reload,
        ok=ok,
    )


def test_attainment_is_over_all_requests_and_in_windows_of_ten_seconds() -> None:
    """5 s late of 100: 95 %; one window of ten at 50 %."""
    made = score(run_of(((30.0, 35.0),)))
    assert made.attainment == pytest.approx(0.95)
    assert made.good_windows == pytest.approx(0.9)
    assert made.window_attainment[3] == pytest.approx(0.5)
    assert made.window_attainment.size == 10
    assert (made.p50_s, made.p95_s, made.p99_s, made.p999_s) == (0.1, 0.1, 0.5, 0.5)


def test_a_request_without_an_answer_is_missed() -> None:
    """An infinite latency counts against attainment and in the tail."""
    run = run_of()
    run.latency_s[::50] = np.inf
    made = score(replace(run, failed=200))
    assert made.attainment == pytest.approx(0.98)
    assert made.p99_s == math.inf
    assert made.failed == 200


def test_cost_is_the_integral_of_what_was_paid() -> None:
    """2 for 20 s, 4 for 40 s, 2 for 40 s; what came before 0 is not part of it."""
    made = score(run_of())
    assert made.cost_instance_s == pytest.approx(280.0)
    assert made.mean_instances == pytest.approx(2.8)
    assert made.peak_instances == 4
    assert made.controller_cpu_fraction == pytest.approx(0.005)


def test_the_peak_is_of_what_is_measured() -> None:
    """What was paid only in the warm-up, or after the end, is no peak."""
    run = replace(run_of(), paid=((-60.0, 9), (-10.0, 3), (50.0, 2), (100.0, 12)))
    assert score(run).peak_instances == 3


def test_only_changes_of_what_is_measured_are_counted() -> None:
    """One in the warm-up is not; a rolled back one is an action, too."""
    changes = (change(-5.0, -2.0), change(20.0, 23.0), change(40.0, 44.0, reload=True, ok=False))
    made = score(replace(run_of(), changes=changes))
    assert (made.actions, made.reloads, made.rolled_back) == (2, 1, 1)


def test_a_flap_is_an_instance_given_up_and_had_again_soon() -> None:
    """Within a minute; a climb is none, nor is a fall."""

    def to(begun_s: float, before: int, after: int) -> ChangeMade:
        made = change(begun_s, begun_s + 3.0)
        return replace(
            made,
            before=replace(made.before, instances=before),
            after=replace(made.after, instances=after),
        )

    run = replace(run_of(), changes=(to(1, 1, 3), to(10, 3, 2), to(40, 2, 3), to(60, 3, 4)))
    assert score(run).flaps == 1
    late = replace(run, changes=(to(1, 3, 2), to(90, 2, 3)))
    assert score(late).flaps == 0


def test_the_prediction_is_held_against_the_next_ten_seconds_without_changes() -> None:
    """Expected 0.12 s for a measured 0.1 s is 20 % off; looks around a change do not count."""
    expected = ((0.0, 0.12), (30.0, 9.0), (45.0, 0.08), (85.0, 0.13), (95.0, 9.0))
    run = replace(run_of(), expected=expected, changes=(change(35.0, 38.0),))
    assert score(run).prediction_error == pytest.approx(0.2)
    assert math.isnan(score(run_of()).prediction_error)


def test_recovery_is_until_calm_and_counts_later_mistakes() -> None:
    """6 s late after the step, and 2 s half a minute later; the allowed 8 s leave only those."""
    (late,) = score(run_of(((20.0, 26.0),)), steps_s=(20.0,)).recoveries
    assert (late.back_s, late.seconds) == (6.0, 6.0)
    assert late.attainment_outside == 1.0
    (twice,) = score(run_of(((20.0, 26.0), (55.0, 57.0))), steps_s=(20.0,)).recoveries
    assert (twice.back_s, twice.seconds) == (6.0, 37.0)
    assert twice.attainment_outside == pytest.approx(1 - 2 / 72)


def test_recovery_is_zero_when_nothing_was_late_and_endless_when_it_stays_so() -> None:
    """Each level of the load is judged by itself."""
    first, second = score(run_of(((70.0, 100.0),)), steps_s=(20.0, 60.0)).recoveries
    assert (first.back_s, first.seconds) == (0.0, 0.0)
    assert (second.back_s, second.seconds) == (math.inf, math.inf)
    assert math.isnan(second.instances)
    assert second.attainment_outside == pytest.approx(2 / 32)


def test_one_late_request_is_no_outage() -> None:
    """1 of 500 in 5 s is within 99 %."""
    (one,) = score(run_of(((40.0, 40.01),)), steps_s=(20.0,)).recoveries
    assert one.seconds == 0.0


def test_instances_of_a_level_are_those_after_it_settled() -> None:
    """From 30 s after the recovery at 20 s to the end at 100 s: 4 for 10 s, 2 for 40 s."""
    (level,) = score(run_of(), steps_s=(20.0,)).recoveries
    assert level.instances == pytest.approx((10 * 4 + 40 * 2) / 50)


def test_over_provisioning_is_what_was_paid_over_what_was_needed() -> None:
    """280 instance-seconds where 2 were enough all the time are 1.4 times that."""
    needed = {50.0: 2, 100.0: 4}

    def steady(times: np.ndarray) -> np.ndarray:
        return np.full_like(times, 50.0)

    assert over_provisioning(run_of(), steady, needed.__getitem__) == pytest.approx(1.4)

    def jump(times: np.ndarray) -> np.ndarray:
        return np.where((times >= 20) & (times < 60), 100.0, 50.0)

    assert over_provisioning(run_of(), jump, needed.__getitem__) == pytest.approx(1.0)
    settled = over_provisioning(run_of(), steady, needed.__getitem__, steps_s=(20.0,))
    assert settled == pytest.approx((20 * 2 + 10 * 4 + 40 * 2) / (70 * 2))


def test_a_spread_is_median_and_range_of_what_is_known() -> None:
    """nan is no figure."""
    assert spread([3.0, math.nan, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)
    assert math.isnan(spread([math.nan]).median)
