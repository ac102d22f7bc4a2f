"""Bursts, rate profiles, and the true rate that a trace knows of itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConfigError
from perf import trace_files, trace_patterns, traces
from perf.traces import Trace

AZURE = Path(__file__).resolve().parents[2] / "examples/traces/azure_llm_2023_conv.csv"


def _bursts(seed: int, duration_s: float = 900.0, **settings: float) -> Trace:
    return trace_patterns.bursts(60, 240, duration_s, period_s=300, seed=seed, **settings)


def _rate(trace: Trace, times_s: np.ndarray) -> np.ndarray:
    assert trace.rate is not None
    return trace.rate(times_s)


def test_bursts_are_the_same_when_the_seed_is() -> None:
    """A seed fixes the bursts' places and every arrival."""
    one, same, other = (_bursts(seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    times_s = np.linspace(0, 900, 9001)
    assert np.array_equal(_rate(one, times_s), _rate(same, times_s))
    assert not np.array_equal(_rate(one, times_s), _rate(other, times_s))


def test_bursts_have_one_burst_in_each_slot_and_double_the_curve() -> None:
    """Ten slots of 90 s: ten bursts of 15 s, each inside its slot, each of factor 2."""
    times_s = np.arange(0, 900, 0.01)
    base_rps = traces.cosine(60, 240, 300)(times_s)
    raised = _rate(_bursts(7), times_s) / base_rps
    assert set(np.round(raised, 9)) == {1.0, 2.0}
    for slot in range(10):
        inside = times_s[(raised > 1.5) & (times_s >= 90 * slot) & (times_s < 90 * (slot + 1))]
        assert inside.size == pytest.approx(1500, abs=2)
        assert inside[-1] - inside[0] < 15.0


def test_bursts_arrive_at_the_rate_that_the_trace_tells() -> None:
    """The arrivals inside and outside the bursts are those of the rate function."""
    trace = _bursts(3)
    starts_s = trace_patterns.burst_starts(900, burst_s=15, every_s=90, seed=3)
    grid_s = np.arange(0.005, 900, 0.01)
    in_burst = np.zeros(grid_s.size, dtype=bool)
    arrived = np.zeros(trace.count, dtype=bool)
    for start_s in starts_s:
        in_burst |= (grid_s >= start_s) & (grid_s < start_s + 15)
        arrived |= (trace.arrival_s >= start_s) & (trace.arrival_s < start_s + 15)
    expected = _rate(trace, grid_s) * 0.01
    assert arrived.sum() == pytest.approx(expected[in_burst].sum(), rel=0.03)
    assert (~arrived).sum() == pytest.approx(expected[~in_burst].sum(), rel=0.02)


def test_bursts_shorter_than_a_slot_have_none() -> None:
    """A slot that is not whole gets no burst, so no burst is cut off."""
    slots = [
        trace_patterns.burst_starts(duration_s, burst_s=15, every_s=90, seed=1).size
        for duration_s in (80, 90, 100, 179.9, 180)
    ]
    assert slots == [0, 1, 1, 1, 2]
    assert _rate(_bursts(1, 80), np.arange(0, 80, 0.1)).max() < 241


def test_bursts_refuse_a_burst_longer_than_its_slot() -> None:
    """Bursts that would overlap are an error."""
    with pytest.raises(ConfigError, match="burst"):
        _bursts(1, burst_s=100, every_s=90)


def test_rate_profile_keeps_time_and_scales_the_rate() -> None:
    """The Azure trace times 27 has about 150 req/s, in each window 27 times its own."""
    azure = trace_files.load_csv(AZURE)
    trace = trace_patterns.rate_profile(azure, window_s=10, factor=27, seed=1)
    assert trace.duration_s == azure.duration_s
    assert trace.mean_rps == pytest.approx(27 * azure.mean_rps, rel=0.01)
    assert 145 < trace.mean_rps < 155
    assert "CC-BY" in trace.description
    edges_s = np.arange(0, 1000, 10.0)
    own = np.histogram(azure.arrival_s, edges_s)[0] / 10 * 27
    assert np.allclose(_rate(trace, edges_s[:-1] + 5), own)
    drawn = np.histogram(trace.arrival_s, edges_s)[0] / 10
    assert np.abs(drawn - own).max() < 5 * np.sqrt(own.max() / 10)


def test_rate_profile_is_the_same_when_the_seed_is() -> None:
    """Another seed gives other arrivals at the same rates."""
    source = traces.steps(((10, 30), (50, 25)), seed=1)
    one, same, other = (
        trace_patterns.rate_profile(source, factor=3, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)
    times_s = np.linspace(0, 55, 100)
    assert np.array_equal(_rate(one, times_s), _rate(other, times_s))


def test_rate_profile_ends_with_a_window_of_its_own_length() -> None:
    """A last window of 5 s has the rate of 5 s, not of 10."""
    trace = trace_patterns.rate_profile(traces.constant(20, 25), factor=2, seed=1)
    assert _rate(trace, np.array([22.0, 24.9, 25.0])) == pytest.approx(40, rel=0.03)


@pytest.mark.parametrize(
    "trace",
    [
        traces.constant(50, 40),
        traces.poisson(50, 40, seed=1),
        traces.steps(((20, 20), (80, 20)), seed=1),
        traces.ramp(10, 90, 40, seed=1),
        traces.diurnal(20, 80, 40, period_s=40, seed=1),
        traces.burst(50, 40, cv2=1, seed=1),
        traces.scaled_to(traces.steps(((20, 20), (80, 20)), seed=1), 100),
        traces.window(traces.steps(((20, 20), (80, 20)), seed=1), 10, 20),
        _bursts(1, 200),
    ],
    ids=lambda trace: str(trace.name),
)
def test_a_trace_knows_its_true_rate(trace: Trace) -> None:
    """In each quarter of the trace the arrivals are what the rate function promises."""
    edges_s = np.linspace(0, trace.duration_s, 5)
    for start_s, end_s in itertools.pairwise(edges_s):
        grid_s = np.linspace(start_s, end_s, 20_000, endpoint=False)
        expected = _rate(trace, grid_s).mean() * (end_s - start_s)
        count = np.count_nonzero((trace.arrival_s > start_s) & (trace.arrival_s <= end_s))
        assert abs(count - expected) < 4 * np.sqrt(expected) + 1


def test_a_recorded_trace_has_no_true_rate() -> None:
    """Of a recording only the arrivals are known."""
    assert trace_files.load_csv(AZURE).rate is None
