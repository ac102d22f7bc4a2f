"""The load as a lower bound over windows: what noise, a jump and a slow climb do to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.load.demand import Bound, Demand, bounds_of, dispersion, measure
from control.core.policy import Policy
from control.core.service.learnt import ServiceTime
from control.core.types import Observation
from tests.unit.intervals import in_a_row, timed
from tests.unit.story import settings


def test_bounds_by_hand() -> None:
    """100 arrivals in the newest second, 80 in the one before."""
    bounds = bounds_of(in_a_row([80, 100]), spread=1.0)
    assert bounds[0].low_rps == pytest.approx(70.0)
    assert bounds[0].likely_rps == pytest.approx(110.0)
    assert bounds[2].low_rps == pytest.approx((180 - 2.5 * 180**0.5) / 2)


def test_noise_alone_hardly_raises_the_bound() -> None:
    """Poisson arrivals at 150/s for ten minutes: the bound stays within 4 % above the truth."""
    counts = np.random.default_rng(1).poisson(150, 600).astype(float).tolist()
    lows = [
        max(b.low_rps for b in bounds_of(in_a_row(counts[n - 40 : n]), spread=1.0))
        for n in range(40, 600)
    ]
    assert max(lows) < 1.04 * 150
    assert np.mean(lows) == pytest.approx(148, rel=0.02)


def test_a_doubling_shows_in_the_first_second() -> None:
    """From 150/s to 300/s: seen at once, and its likely size is near 300."""
    bounds = bounds_of(in_a_row([150.0] * 30 + [300.0]), spread=1.0)
    sure = [b for b in bounds if b.low_rps > 160]
    assert sure
    assert max(b.likely_rps for b in sure) == pytest.approx(317, abs=1)


def test_a_level_that_is_surely_new_is_met_nearer_to_its_mean() -> None:
    """From 100 to 300/s: half the deviations off, as only its height is uncertain."""
    jumped = bounds_of(in_a_row([100] * 10 + [300]), spread=1.0)
    assert jumped[0].low_rps == pytest.approx(300 - 1.5 * 300**0.5)
    assert jumped[0].jumped
    assert jumped[0].up_to_rps == pytest.approx(300 + 1.5 * 300**0.5)
    climbed = bounds_of(in_a_row([100] * 10 + [145]), spread=1.0)  # 3.6 deviations, not 4
    assert climbed[0].low_rps == pytest.approx(145 - 3 * 145**0.5)
    assert not climbed[0].jumped
    assert climbed[0].up_to_rps == pytest.approx(145 + 3 * 145**0.5)
    begun = bounds_of(in_a_row([100, 300]), spread=1.0)  # a second before it proves nothing
    assert begun[0].low_rps == pytest.approx(300 - 3 * 300**0.5)


def test_looks_that_come_a_moment_early_still_make_up_a_window() -> None:
    """Ticks of 0.4998 s: the window of half a second is the newest look, and not two of them."""
    early = [
        replace(i, start_s=0.4998 * n, end_s=0.4998 * (n + 1))
        for n, i in enumerate(in_a_row([30.0] * 10 + [120.0]))
    ]
    assert bounds_of(early, spread=1.0)[0].likely_rps == pytest.approx(262.0, abs=1.0)


def test_while_a_change_is_made_the_most_of_a_new_level_counts() -> None:
    """Sized for what is likely once it is surely too much; reckoned with is the most.

    So it is in a panic, where a part of a jump is not yet known for one.
    """
    bound = Bound(low_rps=70.0, likely_rps=110.0, up_to_rps=130.0, jumped=True)
    demand = Demand(
        fast_rps=100.0,
        stable_rps=50.0,
        load_rps=70.0,
        bounds=(bound,),
        pending=0.0,
        excess=0.0,
        drain_s=0.0,
    )
    assert [demand.sized_rps(c) for c in (60.0, 80.0)] == [110.0, 70.0]
    assert [demand.at_most_rps(c, panic=False) for c in (60.0, 80.0)] == [130.0, 130.0]
    steady = replace(demand, bounds=(replace(bound, jumped=False),))
    assert [steady.at_most_rps(c, panic=False) for c in (60.0, 80.0)] == [110.0, 70.0]
    assert [steady.at_most_rps(c, panic=True) for c in (60.0, 80.0)] == [130.0, 130.0]


@pytest.mark.parametrize(
    ("answered", "waiting", "panic", "at_most_rps"),
    [
        (42.0, 50.0, True, 184.0),  # 42 + 8 take half a second at 100/s: 92 came in it
        (42.0, 50.0, False, 68.0),
        (92.0, 0.0, True, 120.8),  # the whole second was worked through: what the count allows
    ],
)
def test_in_a_panic_what_was_served_says_since_when_the_load_is_there(
    answered: float, waiting: float, panic: bool, at_most_rps: float
) -> None:
    """200/s that begin in the middle of the first look are not taken for 100/s.

    An instance added in place for these left Triton's call hanging for 87 s.
    """
    newest = timed(arrivals=92.0, completed=answered, pending=waiting)
    demand = measure(
        (newest,),
        Observation(at_s=1.0, tick_id="t", counters=None, statistics=None, applied=None),
        Policy(slo_s=0.2),
        applied=settings(1, batch=8),
        service=ServiceTime(alpha_s=0.005, beta_s=0.04),
        fast_rps=92.0,
    )
    assert demand.at_most_rps(100.0, panic=panic) == pytest.approx(at_most_rps, abs=0.1)


def test_bursty_arrivals_need_more_to_be_sure() -> None:
    """The same counts prove less when counts scatter more."""
    intervals = in_a_row([150.0] * 20 + [220.0])
    calm = bounds_of(intervals, spread=1.0)[0].low_rps
    assert bounds_of(intervals, spread=4.0)[0].low_rps < calm


@pytest.mark.parametrize(("factor", "low", "high"), [(1, 1.0, 1.5), (4, 2.5, 6.0)])
def test_dispersion_of_batched_arrivals(factor: int, low: float, high: float) -> None:
    """Arrivals that come in groups of 4 have four times the variance of their mean."""
    rng = np.random.default_rng(3)
    found = [
        dispersion(in_a_row((factor * rng.poisson(150 / factor, 40)).astype(float).tolist()))
        for _ in range(50)
    ]
    assert low <= np.mean(found) <= high


@pytest.mark.parametrize("long_s", [1.0, 3.0, 8.0])
def test_dispersion_of_uneven_ticks_is_that_of_even_ones(long_s: float) -> None:
    """A steady Poisson stream of 150/s, counted over 1 s and over longer in turn."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(50):
        intervals, at_s = [], 0.0
        for n in range(40):
            span_s = long_s if n % 2 else 1.0
            one = in_a_row([float(rng.poisson(150 * span_s))])[0]
            intervals.append(replace(one, start_s=at_s, end_s=at_s + span_s))
            at_s += span_s
        found.append(dispersion(intervals))
    assert 1.0 <= np.mean(found) <= 1.5


def test_dispersion_ignores_one_jump_of_the_level() -> None:
    """A step is no burstiness."""
    rng = np.random.default_rng(4)
    counts = np.concatenate([rng.poisson(60, 20), rng.poisson(240, 20)]).astype(float)
    assert dispersion(in_a_row(counts.tolist())) < 1.6


@given(
    counts=st.lists(st.floats(0, 1e4), min_size=1, max_size=30),
    more=st.floats(0, 1e4),
    span_s=st.sampled_from([0.25, 1.0, 2.0]),
)
def test_more_arrivals_never_lower_a_bound(counts: list[float], more: float, span_s: float) -> None:
    """From equal history, more in the newest interval is never less load."""
    less = bounds_of(in_a_row(counts, span_s=span_s), spread=1.0)
    greater = bounds_of(in_a_row([*counts[:-1], counts[-1] + more], span_s=span_s), spread=1.0)
    for before, after in zip(less, greater, strict=True):
        assert after.low_rps >= before.low_rps - 1e-9
        assert after.likely_rps >= before.likely_rps
    assert all(b.low_rps <= b.likely_rps for b in greater)
