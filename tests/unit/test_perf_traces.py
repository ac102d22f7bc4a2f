"""Traces: what a generator promises, and what a bad file is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conch.errors import ConfigError
from perf import trace_files, traces
from perf.traces import Trace


def test_poisson_is_the_same_when_the_seed_is() -> None:
    """A seed fixes every arrival, and another seed gives others."""
    one, same, other = (traces.poisson(50, 10, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)


def test_poisson_has_exponential_gaps() -> None:
    """The mean rate and the squared variation of the gaps are those of a Poisson process."""
    gaps_s = np.diff(traces.poisson(100, 200, seed=3).arrival_s)
    assert gaps_s.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps_s.var() / gaps_s.mean() ** 2 == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("cv2", [1, 4, 12])
def test_burst_has_the_variation_asked_for(cv2: float) -> None:
    """The gaps' mean and squared coefficient of variation come out as given."""
    gaps_s = np.diff(traces.burst(100, 2000, cv2=cv2, seed=5).arrival_s)
    assert gaps_s.mean() == pytest.approx(0.01, rel=0.04)
    assert gaps_s.var() / gaps_s.mean() ** 2 == pytest.approx(cv2, rel=0.08)


def test_steps_have_each_rate_in_its_time() -> None:
    """Arrivals follow the levels, in order, and none falls into a level of rate 0."""
    trace = traces.steps(((20, 50), (0, 50), (200, 50)), seed=1)
    counts = np.histogram(trace.arrival_s, [0, 50, 100, 150])[0]
    assert counts[0] == pytest.approx(1000, rel=0.1)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(10_000, rel=0.05)
    assert trace.duration_s == 150


def test_ramp_rises_from_the_first_rate_to_the_last() -> None:
    """The first and the last tenth of a ramp have the rates of its ends."""
    trace = traces.ramp(10, 210, 100, seed=1)
    counts = np.histogram(trace.arrival_s, 10, (0, 100))[0]
    assert counts[0] == pytest.approx(200, rel=0.25)
    assert counts[-1] == pytest.approx(2000, rel=0.1)


def test_diurnal_peaks_at_half_a_period() -> None:
    """Load is lowest at the ends of a period and highest in its middle."""
    counts = np.histogram(
        traces.diurnal(10, 200, 100, period_s=100, seed=1).arrival_s, 10, (0, 100)
    )[0]
    assert counts[0] < 300
    assert counts[4] + counts[5] == pytest.approx(3900, rel=0.1)
    assert int(np.argmax(counts)) in (4, 5)


@given(
    rate=st.floats(0.5, 200),
    duration=st.floats(0.1, 20),
    seed=st.integers(0, 2**32 - 1),
    cv2=st.floats(1, 16),
)
@settings(max_examples=40, deadline=None)
def test_generators_give_ascending_times_within_the_duration(
    rate: float, duration: float, seed: int, cv2: float
) -> None:
    """Whatever is asked for, a trace is one that a replay can follow."""
    for trace in (
        traces.poisson(rate, duration, seed=seed),
        traces.burst(rate, duration, cv2=cv2, seed=seed),
        traces.ramp(0, rate, duration, seed=seed),
        traces.constant(rate, duration),
    ):
        assert np.all(np.diff(trace.arrival_s) >= 0)
        assert trace.count == 0 or 0 <= trace.arrival_s[0] <= trace.arrival_s[-1] <= duration


def test_trace_refuses_times_that_do_not_ascend() -> None:
    """A trace cannot be made of times that no replay could follow."""
    with pytest.raises(ConfigError, match="ascend"):
        Trace(name="x", arrival_s=np.array([2.0, 1.0]), duration_s=3, description="")


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_generators_refuse_rates_that_are_none(rate: float) -> None:
    """Zero, negative, nan and infinite rates are errors, not empty traces."""
    with pytest.raises(ConfigError, match="rate_rps"):
        traces.poisson(rate, 10, seed=1)


def test_scaling_changes_the_rate_and_says_so() -> None:
    """Scaled time keeps the count, reaches the mean, and is told in the description."""
    trace = traces.scaled_to(traces.poisson(10, 100, seed=1), 200)
    assert trace.mean_rps == pytest.approx(200)
    assert "200 req/s" in trace.description


def test_window_counts_from_its_own_start() -> None:
    """A window's arrivals begin at 0, and it must lie within the trace."""
    trace = traces.constant(10, 10)
    cut = traces.window(trace, 5, 2)
    assert cut.count == 20
    assert cut.arrival_s[0] == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="window"):
        traces.window(trace, 9, 2)


def test_csv_brings_the_same_trace_back(tmp_path: Path) -> None:
    """A saved trace is read back with its times, name, duration, seed and description."""
    trace = traces.poisson(30, 5, seed=9)
    path = tmp_path / "trace.csv"
    trace_files.save_csv(trace, path)
    back = trace_files.load_csv(path)
    assert np.allclose(back.arrival_s, trace.arrival_s, atol=1e-6)
    assert (back.name, back.duration_s, back.seed) == (trace.name, 5.0, 9)
    assert back.description == trace.description


def test_csv_reads_timestamps_from_their_own_start(tmp_path: Path) -> None:
    """A TIMESTAMP column with seven decimals becomes seconds from the first request."""
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46.6805900,374\n"
        "2023-11-16 18:15:50.9951690,396\n"
    )
    assert trace_files.load_csv(path).arrival_s == pytest.approx([0, 4.314579], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arrival_s\n1\nx\n", r":3: 'x'"),
        ("arrival_s\n1\nnan\n", r":3: 'nan'"),
        ("arrival_s\n# note\n2\n1\n", r":4: 1 s, times must ascend"),
        ("a,b\n1,2\n", r":1: columns a, b"),
        ("TIMESTAMP\nyesterday\n", r":2: 'yesterday'"),
        ("arrival_s\n", "no arrivals"),
        ("", "no arrivals"),
        ("1.5\n2.5\n", r":1: columns 1.5"),
        ("# duration_s: long\narrival_s\n1\n", "duration_s"),
        ("b,arrival_s\n1\n", r":2: ''"),
    ],
)
def test_csv_names_the_line_when_it_is_bad(tmp_path: Path, text: str, says: str) -> None:
    """A fault in a file is an error that says where it is."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        trace_files.load_csv(path)


def test_csv_says_so_when_the_file_is_missing_or_binary(tmp_path: Path) -> None:
    """No traceback for a path that is not there or a file that is no text."""
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("none.csv", "binary.csv"):
        with pytest.raises(ConfigError, match="cannot be read"):
            trace_files.load_csv(tmp_path / name)


def test_example_trace_is_readable() -> None:
    """The shipped Azure trace has the 19,366 arrivals that its README names."""
    root = Path(__file__).resolve().parents[2]
    trace = trace_files.load_csv(root / "examples/traces/azure_llm_2023_conv.csv")
    assert trace.count == 19_366
    assert "CC-BY" in trace.description
