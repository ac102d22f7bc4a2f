"""The traffic envelope."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.rules.baselines.envelope import WINDOWS_S, envelope


def _each_second(*counts: float, at_s: float | None = None) -> dict[float, float]:
    """The envelope of so many arrivals in one second after the other."""
    end = np.arange(1.0, len(counts) + 1)
    return envelope(end, counts, np.ones(len(counts)), len(counts) if at_s is None else at_s)


def test_envelope_of_an_even_load_is_the_load() -> None:
    """Every window sees the same rate."""
    assert _each_second(*[50.0] * 60) == pytest.approx(dict.fromkeys(WINDOWS_S, 50.0))


def test_envelope_of_a_burst_falls_with_the_window() -> None:
    """100 at once in 8 quiet seconds: 100/s over one second, 12.5/s over eight."""
    assert _each_second(0, 0, 100, 0, 0, 0, 0, 0) == {1.0: 100.0, 2.0: 50.0, 4.0: 25.0, 8.0: 12.5}


def test_envelope_sees_a_burst_across_intervals() -> None:
    """The worst 4 s begin in the middle of an interval of 2 s; nothing is lost at its ends."""
    rates = envelope([2, 3, 6], [20, 30, 30], [2, 1, 3], 6.0, windows_s=(1.0, 4.0))
    assert rates == pytest.approx({1.0: 30.0, 4.0: 60.0 / 4})


def test_envelope_leaves_out_windows_that_it_cannot_know() -> None:
    """Three seconds of history say nothing of eight; none say nothing at all."""
    assert list(_each_second(5, 5, 5)) == [1.0, 2.0]
    assert envelope([], [], [], 10.0) == {}


def test_envelope_forgets_after_a_minute_and_ignores_the_future() -> None:
    """A burst 61 s ago is over; a clock that was set back leaves nothing from later."""
    quiet = [1.0] * 70
    quiet[2] = 500.0
    assert max(_each_second(*quiet).values()) == 1.0
    assert max(_each_second(*quiet, at_s=60.0).values()) == 500.0
    assert _each_second(*quiet, at_s=0.5) == {}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -5.0])
def test_envelope_leaves_out_odd_numbers(odd: float) -> None:
    """NaN and infinite numbers, negative counts and spans are no arrivals."""
    good = envelope([1, 3], [10, 20], [1, 1], 3.0)
    assert envelope([1, 2, 3], [10, odd, 20], [1, 1, 1], 3.0) == good
    if not odd < 0:
        assert envelope([1, odd, 3], [10, 90, 20], [1, 1, 1], 3.0) == good
    assert envelope([1, 2, 3], [10, 90, 20], [1, odd, 1], 3.0) == good


@given(
    st.lists(
        st.tuples(st.floats(0.25, 2.0), st.integers(0, 500)),
        min_size=1,
        max_size=40,
    )
)
def test_envelope_is_what_a_slow_search_finds(looks: list[tuple[float, int]]) -> None:
    """No window, slid in small steps, has more; and none longer has more at a higher rate."""
    span = np.array([s for s, _ in looks])
    count = np.array([n for _, n in looks], dtype=float)
    end = np.cumsum(span)
    rates = envelope(end, count, span, float(end[-1]))
    corner = np.concatenate(([0.0], end))[np.concatenate(([0.0], end)) >= end[-1] - 60.0]
    starts = np.unique(
        np.concatenate((np.linspace(max(0.0, end[-1] - 58.0), end[-1], 200), corner))
    )
    total = np.concatenate(([0.0], np.cumsum(count)))
    times = np.concatenate(([0.0], end))
    for window_s, rate_rps in rates.items():
        inside = starts[starts + window_s <= end[-1]]
        found = np.interp(inside + window_s, times, total) - np.interp(inside, times, total)
        if found.size:
            assert rate_rps * window_s >= found.max() - 1e-6
        assert 0 <= rate_rps * window_s <= count.sum() + 1e-6
    for short_s, long_s in zip(rates, list(rates)[1:], strict=False):
        assert rates[short_s] * short_s <= rates[long_s] * long_s + 1e-6
