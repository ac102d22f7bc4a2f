"""What the demo makes of its runs, and when it calls one disturbed."""

from __future__ import annotations

import numpy as np
import pytest

from demo import figures, neighbours
from demo.neighbours import Attempt
from demo.scenario import Carried, Scenario, rush_trace, tuned_trace
from perf.replay_result import Outcome, ReplayResult

CARRIED = Carried(default=150.0, cheap=400.0, best=200.0)


def a_run(latency_s: np.ndarray, *, rate_rps: float = 10.0) -> ReplayResult:
    """Evenly spaced requests that were answered after these times; inf for one that failed."""
    intended_s = np.arange(latency_s.size) / rate_rps
    failed = np.isinf(latency_s)
    return ReplayResult(
        trace_name="t",
        description="",
        seed=0,
        model="m",
        duration_s=latency_s.size / rate_rps,
        slo_s=0.1,
        deadline_s=20.0,
        processes=1,
        epoch_monotonic_s=0.0,
        client_cpu_s=0.0,
        intended_s=intended_s,
        sent_s=intended_s,
        done_s=intended_s + np.where(failed, 1.0, latency_s),
        outcome=np.where(failed, Outcome.FAILED, Outcome.OK).astype(np.int8),
        error_index=np.full(latency_s.size, -1, dtype=np.int16),
    )


def late_in(begin_s: float, end_s: float) -> np.ndarray:
    """float64 [300], late from the one to the other, at 10 a second."""
    latency_s = np.full(300, 0.05)
    latency_s[int(begin_s * 10) : int(end_s * 10)] = 0.5
    return latency_s


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        pytest.param((0, 0), 1.0, id="never-late"),
        pytest.param((10, 13), 1.0, id="late-in-the-recovery"),
        pytest.param((9, 10), 260 / 270, id="late-before-the-rush"),
        pytest.param((13, 14), 260 / 270, id="late-after-the-recovery"),
    ],
)
def test_requests_count_unless_the_rush_has_just_begun(late, expected: float) -> None:
    """Only what is late outside of the recovery lowers it."""
    assert figures.within(a_run(late_in(*late)), but=(10.0, 13.0)) == pytest.approx(expected)


def test_the_difference_knows_how_sure_it_is() -> None:
    """The same runs differ by nothing, surely; seconds that are late in one of them show."""
    good, bad = a_run(late_in(0, 0)), a_run(late_in(11, 29))
    same = figures.difference([good], [good], after_s=10.0, seed=1)
    assert (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)
    worse = figures.difference([bad, good], [good, good], after_s=10.0, seed=1)
    assert worse.mean == pytest.approx(-180 / 400)
    assert worse.low < worse.mean < worse.high < 0.0
    cold = figures.difference([a_run(late_in(0, 9))], [good], after_s=10.0, seed=1)
    assert cold.low == 0.0


def test_quality_is_told_of_time_requests_and_what_could_be_carried() -> None:
    """Best but for 10 to 20 s; the rush, which it cannot carry, is 10 to 15 s."""
    shares = figures.quality(
        a_run(late_in(0, 0)), ((0.0, 2), (10.0, 1), (20.0, 2)), 2, rush=(10.0, 15.0)
    )
    assert shares.time == pytest.approx(2 / 3, abs=0.01)
    assert shares.requests == pytest.approx(2 / 3, abs=0.01)
    assert shares.carried == pytest.approx(20 / 25, abs=0.01)


def test_a_fault_costs_what_fails_until_the_next_one() -> None:
    """Failed, late, and how long it took; one that never answers again is told."""
    latency_s = np.full(300, 0.05)
    latency_s[100:130] = np.inf
    latency_s[130:135] = 0.5
    latency_s[250:] = np.inf
    first, second = figures.lost(a_run(latency_s), ((10.0, "a"), (20.0, "b")))
    assert (first.failed, first.late, first.answers) == (30, 5, True)
    assert first.until_s == pytest.approx(2.9)
    assert (second.failed, second.answers) == (50, False)


def test_the_rates_follow_from_what_was_measured() -> None:
    """The rush is beyond fp32 and within INT8, also where INT8 is hardly faster."""
    scenario = Scenario()
    trace, (begin_s, end_s) = rush_trace(scenario, CARRIED), scenario.rush
    calm, rush, after = (
        ((trace.arrival_s >= a) & (trace.arrival_s < b)).sum() / (b - a)
        for a, b in ((0.0, begin_s), (begin_s, end_s), (end_s, trace.duration_s))
    )
    assert calm == pytest.approx(0.35 * 200, rel=0.15)
    assert after == pytest.approx(calm, rel=0.2)
    assert rush == pytest.approx(280, rel=0.1)
    little = Carried(default=100.0, cheap=210.0, best=200.0)
    assert rush_trace(scenario, little).peak_rps() < 245
    high = tuned_trace(scenario, CARRIED, seed=1)
    assert high.peak_rps() == pytest.approx(260, rel=0.25)
    rushes = (scenario.rush[1] - scenario.rush[0]) / rush_trace(scenario, CARRIED).duration_s
    assert rushes >= 0.25


def test_the_attempt_that_counts_is_chosen_by_what_others_used() -> None:
    """Never by its outcome."""
    first, second = Attempt(result="good", others=0.3), Attempt(result="bad", others=0.05)
    assert first.disturbed
    assert not second.disturbed
    assert neighbours.chosen([first, second]) is second


def test_what_we_use_ourselves_disturbs_nobody(monkeypatch) -> None:
    """10 s on 2 CPUs: 8 s of work, 5 of them ours."""
    clock = iter((0.0, 10.0))
    own_s = iter((100.0, 105.0))
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(neighbours, "busy_between", lambda _, __: 0.4)
    monkeypatch.setattr(neighbours, "_own_s", lambda: next(own_s))
    monkeypatch.setattr(neighbours.psutil, "cpu_count", lambda: 2)
    assert neighbours.Neighbours().share() == pytest.approx(0.15)
