"""How fast the error budget burns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.judgement.error_budget import ErrorBudget, missed_fraction, pending_at_start
from tests.unit.intervals import timed
from tests.unit.story import a_policy

SLO_S = 0.1


def test_requests_that_hardly_wait_miss_nothing() -> None:
    """2 ms of waiting beside 80 ms of slack."""
    assert missed_fraction(timed(wait_s=0.002), slo_s=SLO_S) < 1e-9


def test_the_tail_of_the_wait_is_exponential() -> None:
    """20 ms waited, 70 ms of slack: exp(-3.5)."""
    seen = missed_fraction(timed(wait_s=0.02, compute_s=0.03), slo_s=SLO_S)
    assert seen == pytest.approx(math.exp(-3.5))


def test_a_computation_longer_than_the_slo_misses_always() -> None:
    """Without any queue."""
    assert missed_fraction(timed(compute_s=0.2), slo_s=SLO_S) == 1.0


def test_a_queue_longer_than_the_slack_is_too_late_for_whoever_comes() -> None:
    """100/s answer 8 in 80 ms: the queue grew from 4 to 12, so half came too late."""
    new = timed(arrivals=108.0, pending=12.0)
    assert pending_at_start(new) == 4.0
    assert missed_fraction(new, slo_s=SLO_S) == pytest.approx(0.5)
    assert missed_fraction(timed(pending=500.0), slo_s=SLO_S) == 1.0


def test_nobody_answered_is_bad_once_the_slo_has_passed() -> None:
    """A short look proves nothing; a second does; no requests are no misses."""
    stuck = timed(completed=0.0, arrivals=5.0, pending=5.0)
    assert missed_fraction(stuck, slo_s=SLO_S) == 1.0
    assert missed_fraction(replace(stuck, start_s=0.95), slo_s=SLO_S) == 0.0
    idle = timed(completed=0.0, arrivals=0.0)
    assert missed_fraction(idle, slo_s=SLO_S) == 0.0


@given(
    st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0.01, 10)
)
def test_the_share_is_a_share(
    completed: float, pending: float, wait_s: float, compute_s: float, span_s: float
) -> None:
    """From 0 to 1 whatever was counted."""
    new = timed(
        completed=completed, pending=pending, wait_s=wait_s, compute_s=compute_s, span_s=span_s
    )
    assert 0.0 <= missed_fraction(new, slo_s=SLO_S) <= 1.0


def _burnt(budget: ErrorBudget, first: int, last: int, *, bad: bool, rate: float = 100.0):
    policy = a_policy(slo_s=SLO_S)
    for end_s in range(first, last + 1):
        new = timed(float(end_s), compute_s=0.2 if bad else 0.02, completed=rate, arrivals=rate)
        budget = budget.absorb(new, policy)
    return budget


def test_it_trips_when_both_windows_burn() -> None:
    """14.4% bad of 5 minutes at 99%: 43 of 300 s; over soon after the misses end."""
    policy = a_policy(slo_s=SLO_S)
    good = _burnt(ErrorBudget(), 1, 300, bad=False)
    assert not good.burning(policy, at_s=300.0)
    short = _burnt(good, 301, 335, bad=True)
    assert short.burn_rate(policy, window_s=30.0, at_s=335.0) == pytest.approx(100.0)
    assert not short.burning(policy, at_s=335.0)
    long = _burnt(short, 336, 350, bad=True)
    assert long.burning(policy, at_s=350.0)
    over = _burnt(long, 351, 385, bad=False)
    assert over.burn_rate(policy, window_s=300.0, at_s=385.0) > 14.4
    assert not over.burning(policy, at_s=385.0)


def test_few_requests_prove_nothing() -> None:
    """199 bad ones do not trip it, 200 do."""
    policy = a_policy(slo_s=SLO_S)
    few = _burnt(ErrorBudget(), 1, 1, bad=True, rate=199.0)
    assert not few.burning(policy, at_s=1.0)
    assert _burnt(few, 2, 2, bad=True, rate=1.0).burning(policy, at_s=2.0)


def test_failures_are_misses() -> None:
    """However fast they were."""
    policy = a_policy(slo_s=SLO_S)
    new = timed(completed=50.0, failed=50.0)
    budget = ErrorBudget().absorb(new, policy)
    assert budget.burn_rate(policy, window_s=30.0, at_s=1.0) == pytest.approx(50.0)


def test_the_memory_is_bounded() -> None:
    """An hour of ticks leaves at most the long window's bins."""
    budget = _burnt(ErrorBudget(), 1, 3600, bad=False)
    assert len(budget.bins) <= 101
    assert sum(b.total for b in budget.bins) == pytest.approx(30_000, rel=0.02)


def test_a_clock_set_back_drops_the_future() -> None:
    """What was to come never was."""
    budget = _burnt(ErrorBudget(), 100, 110, bad=True)
    back = _burnt(budget, 50, 50, bad=False)
    assert [b.end_s for b in back.bins] == [50.0]
