"""The load over the next seconds: level, trend, and what comes back."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from control.core import seasonal
from control.core.forecast import Forecast, update
from control.core.seasonal import History, find
from perf import trace_files

TRACE = Path(__file__).parents[2] / "examples/traces/azure_llm_2023_conv.csv"
START_S = 1_700_000_000.0
HORIZON_S = 5.0


def _told(rates: NDArray[np.float64] | list[float], *, span_s: float = 1.0) -> Forecast:
    """The forecast after these rates, one interval after the other."""
    forecast = Forecast()
    for k, rate_rps in enumerate(rates, start=1):
        forecast = update(forecast, float(rate_rps), START_S + k * span_s, span_s)
    return forecast


def _history(rates: NDArray[np.float64]) -> History:
    """The bins after these rates, one a second."""
    history = History()
    for k, rate_rps in enumerate(rates, start=1):
        history = history.add(float(rate_rps), START_S + k, 1.0)
    return history


def _wave(seconds: int, *, period_s: float, seed: int) -> NDArray[np.float64]:
    """Poisson counts, each second, along a cosine from 60/s to 240/s."""
    turn = 2.0 * np.pi * np.arange(seconds) / period_s
    return np.random.default_rng(seed).poisson(150.0 - 90.0 * np.cos(turn)).astype(float)


@functools.cache
def _azure(seed: int) -> NDArray[np.float64]:
    """The recorded trace: its rate over 10 s × 27, Poisson counts each second."""
    arrival_s = trace_files.load_csv(TRACE).arrival_s
    tens = int(arrival_s[-1] // 10)
    each = np.bincount((arrival_s[arrival_s < tens * 10] // 10).astype(int), minlength=tens)
    return np.random.default_rng(seed).poisson(np.repeat(each * 2.7, 10)).astype(float)


def _error_rps(rates: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """Mean absolute error against the mean of the next 5 s; ``said`` after each second."""
    total = np.concatenate(([0.0], np.cumsum(rates)))
    known = np.arange(60, rates.size - 5)
    return float(np.abs((total[known + 5] - total[known]) / 5 - said[known - 1]).mean())


def test_forecast_of_a_constant_load_is_the_load() -> None:
    """No trend, no residual, at any horizon."""
    forecast = _told([80.0] * 60)
    assert forecast.ahead_rps(5) == pytest.approx(80.0)
    assert forecast.ahead_rps(600) == pytest.approx(80.0)
    assert forecast.trend_rps_per_s == pytest.approx(0.0)


def test_forecast_begins_with_the_mean() -> None:
    """Two readings: half each, until there are more than the level remembers."""
    assert _told([100.0, 200.0]).level_rps == pytest.approx(150.0)


def test_forecast_follows_a_climb() -> None:
    """10/s more each second: nearer to what comes than the level is, and it does not run away."""
    forecast = _told([100.0 + 10.0 * k for k in range(40)])
    assert forecast.level_rps + 5.0 < forecast.ahead_rps(5) < 540.0
    assert forecast.ahead_rps(600) < 600.0


def test_forecast_is_at_a_step_after_a_few_seconds() -> None:
    """60 → 240/s: four fifths of the way after 4 s, and the overshoot is less than a tenth."""
    forecast = _told([60.0] * 60 + [240.0] * 4)
    assert forecast.ahead_rps(5) > 60.0 + 0.8 * 180.0
    for _ in range(20):
        forecast = update(forecast, 240.0, (forecast.at_s or 0.0) + 1.0, 1.0)
        assert forecast.ahead_rps(5) < 1.1 * 240.0


def test_forecast_does_not_depend_on_the_tick() -> None:
    """Half a second or two: the level follows a step in the same time."""
    fast = _told([60.0] * 120 + [240.0] * 8, span_s=0.5)
    slow = _told([60.0] * 30 + [240.0] * 2, span_s=2.0)
    assert fast.level_rps == pytest.approx(slow.level_rps, rel=0.03)


@pytest.mark.parametrize("span_s", [0.25, 1.0, 2.0])
def test_residual_is_that_of_a_second(span_s: float) -> None:
    """Poisson at 150/s scatters by √150 in a second, whatever the tick."""
    rng = np.random.default_rng(7)
    residuals = [
        _told(
            rng.poisson(150 * span_s, size=int(120 / span_s)) / span_s, span_s=span_s
        ).residual_rps
        for _ in range(10)
    ]
    assert np.mean(residuals) == pytest.approx(math.sqrt(150.0), rel=0.35)


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(-1, 20)),
        max_size=20,
    ),
    st.floats(0, 3600),
)
def test_forecast_is_finite_and_never_negative(
    looks: list[tuple[float, float, float]], horizon_s: float
) -> None:
    """Whatever it is told."""
    forecast, at_s = Forecast(), 0.0
    for rate_rps, span_s, step_s in looks:
        at_s += step_s
        before, forecast = forecast, update(forecast, rate_rps, at_s, span_s)
        if not (0 <= rate_rps < math.inf and 0 < span_s < math.inf):
            assert forecast is before
        assert forecast.level_rps >= 0
        assert 0 <= forecast.ahead_rps(horizon_s) < math.inf
        assert 0 <= forecast.residual_rps < math.inf


def test_forecast_rejects_what_is_not_newer() -> None:
    """The same look again, or a clock that was set back."""
    forecast = _told([10.0, 20.0])
    assert update(forecast, 90.0, START_S + 2.0, 1.0) is forecast
    assert update(forecast, 90.0, START_S + 1.0, 1.0) is forecast
    assert update(forecast, 90.0, math.nan, 1.0) is forecast


def test_forecast_is_better_than_the_naive_one_on_a_recorded_trace() -> None:
    """Azure's trace, 5 s ahead: at least 8% less error than the mean of the last 6 s."""
    rates = _azure(0)
    forecast, said = Forecast(), []
    for k, rate_rps in enumerate(rates, start=1):
        forecast = update(forecast, float(rate_rps), float(k), 1.0)
        said.append(forecast.ahead_rps(HORIZON_S))
    naive = np.convolve(rates, np.ones(6) / 6)[: rates.size]
    assert _error_rps(rates, np.array(said)) < 0.92 * _error_rps(rates, naive)


@pytest.mark.parametrize("period_s", [60.0, 120.0, 240.0])
def test_season_is_found_and_helps(period_s: float) -> None:
    """15 minutes of waves with Poisson noise: the period is right, the error a fifth less."""
    wave = find(_history(_wave(900, period_s=period_s, seed=3)), horizon_s=HORIZON_S)
    assert wave is not None
    assert wave.period_s == pytest.approx(period_s, rel=0.02)
    assert wave.gain_fraction > 0.2


def test_season_knows_its_period_well_enough_for_many_of_them() -> None:
    """84 periods of 43 s: an error of 0.05% would be a phase lost by two seconds at their end."""
    wave = find(_history(_wave(3600, period_s=43.0, seed=8)), horizon_s=HORIZON_S)
    assert wave is not None
    assert wave.period_s == pytest.approx(43.0, rel=0.0002)
    assert wave.gain_fraction > 0.7


def test_season_helps_after_it_was_found() -> None:
    """On the 5 minutes that follow, which it never saw, too."""
    rates = _wave(1200, period_s=120.0, seed=4)
    wave = find(_history(rates[:900]), horizon_s=HORIZON_S)
    assert wave is not None
    naive = np.convolve(rates, np.ones(6) / 6)[: rates.size]
    # The last 6 s are centred 3 s back, the next 5 s are centred 2.5 s ahead.
    change = [wave.change_rps(START_S + k - 2.0, 5.5) for k in range(rates.size)]
    later = rates[840:]
    assert _error_rps(later, (naive + change)[840:]) < 0.7 * _error_rps(later, naive[840:])


def test_season_of_a_given_period_needs_no_detection() -> None:
    """The owner knows that his wave has 120 s."""
    wave = find(_history(_wave(900, period_s=120.0, seed=5)), horizon_s=HORIZON_S, period_s=120.0)
    assert wave is not None
    assert wave.period_s == 120.0
    wrong = find(_history(_wave(900, period_s=120.0, seed=5)), horizon_s=HORIZON_S, period_s=97.0)
    assert wrong is None


def test_season_waits_for_two_full_periods() -> None:
    """Two periods of 240 s are older than the judging quarter only after 640 s."""
    rates = _wave(900, period_s=240.0, seed=3)
    assert find(_history(rates[:600]), horizon_s=HORIZON_S) is None
    assert find(_history(rates[:600]), horizon_s=HORIZON_S, period_s=240.0) is None
    assert find(_history(rates[:700]), horizon_s=HORIZON_S, period_s=240.0) is not None
    assert find(History(), horizon_s=HORIZON_S) is None


@pytest.mark.parametrize("seed", range(3))
def test_season_is_not_seen_where_there_is_none(seed: int) -> None:
    """A step and back, constant Poisson, and the recorded trace come without one."""
    rng = np.random.default_rng(seed)
    step = rng.poisson(np.repeat([60.0, 240.0, 60.0], 300)).astype(float)
    for rates in (step, rng.poisson(150.0, size=1800).astype(float), _azure(seed)):
        for horizon_s in (HORIZON_S, 20.0):
            assert find(_history(rates), horizon_s=horizon_s) is None


def test_history_stays_bounded_and_keeps_the_wave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the bins that fit: pairs become one, and the period is still right."""
    monkeypatch.setattr(seasonal, "MAX_BINS", 200)
    rates = _wave(2400, period_s=300.0, seed=6)
    history = _history(rates)
    assert len(history.rates_rps) <= 200
    assert history.bin_s == 20.0
    assert np.mean(history.rates_rps) == pytest.approx(rates.mean(), rel=0.02)
    wave = find(history, horizon_s=20.0)
    assert wave is not None
    assert wave.period_s == pytest.approx(300.0, rel=0.02)


def test_history_fills_a_short_gap_and_starts_again_after_a_long_one() -> None:
    """A missed look keeps the bins in step with the clock; an hour without looks is a new life."""
    history = _history(np.full(60, 7.0))
    bins = len(history.rates_rps)
    short = history.add(9.0, START_S + 80.0, 1.0)
    assert short.rates_rps == (7.0,) * (bins + 4)
    assert history.add(9.0, START_S + 3660.0, 1.0).rates_rps == ()
    assert history.add(9.0, START_S + 30.0, 1.0) is history


@pytest.mark.parametrize("odd", [math.nan, math.inf, -1.0])
def test_history_rejects_odd_numbers(odd: float) -> None:
    """They change nothing."""
    history = _history(np.full(10, 7.0))
    assert history.add(odd, START_S + 11.0, 1.0) is history
    assert history.add(7.0, START_S + 11.0, odd) is history
