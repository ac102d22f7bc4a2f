"""The arithmetic of service levels, on latencies written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf import slo

INF = float("inf")


def test_attainment_counts_the_unanswered_as_missed() -> None:
    """A failed request is in the denominator and not in the numerator."""
    assert slo.slo_attainment(np.array([0.05, 0.051, INF, 0.01]), 0.05) == 0.5


def test_attainment_is_nan_when_nothing_was_offered() -> None:
    """No requests is no figure, neither perfect nor lost."""
    assert np.isnan(slo.slo_attainment(np.array([]), 0.05))
    assert np.isnan(slo.percentile_s(np.array([]), 99))


def test_percentile_is_a_latency_that_occurred() -> None:
    """No interpolation: of 1 to 100 ms the p99 is the 99th, and p50 the 50th."""
    latency_s = np.arange(1, 101) / 1e3
    assert slo.percentile_s(latency_s, 99) == pytest.approx(0.099)
    assert slo.percentile_s(latency_s, 50) == pytest.approx(0.050)


def test_percentile_is_infinite_when_too_few_were_answered() -> None:
    """2 of 100 unanswered make the p99 infinite and leave the p95 finite."""
    latency_s = np.array([0.01] * 98 + [INF] * 2)
    assert slo.percentile_s(latency_s, 99) == INF
    assert slo.percentile_s(latency_s, 95) == 0.01


@given(
    st.lists(st.one_of(st.floats(0, 10), st.just(INF)), min_size=1, max_size=300),
    st.floats(0.001, 10),
)
def test_p99_and_attainment_agree(values: list[float], limit_s: float) -> None:
    """The p99 is within the SLO exactly when 99 % of the requests are."""
    latency_s = np.array(values)
    within = np.count_nonzero(latency_s <= limit_s) * 100 >= 99 * latency_s.size
    assert (slo.percentile_s(latency_s, 99) <= limit_s) == within


def test_goodput_counts_only_what_met_the_slo() -> None:
    """Late answers are throughput but not goodput."""
    assert slo.goodput_rps(np.array([0.01, 0.2, INF, 0.02]), 0.05, 2.0) == 1.0


def test_windows_sort_requests_by_their_intended_time() -> None:
    """A slow answer spoils the window its request was meant for, and completes in a later one."""
    seen = slo.windows(np.array([0.1, 0.2, 1.5]), np.array([0.01, 1.0, INF]), slo_s=0.05, until_s=3)
    assert seen.offered_count.tolist() == [2, 1, 0]
    assert seen.completed_count.tolist() == [1, 1, 0]
    assert seen.attainment_fraction[:2].tolist() == [0.5, 0.0]
    assert np.isnan(seen.attainment_fraction[2])
    assert seen.p99_s[0] == 1.0
    assert seen.p99_s[1] == INF


def test_windows_keep_a_request_at_the_very_end() -> None:
    """An arrival exactly at the end belongs to the last window."""
    seen = slo.windows(np.array([2.0]), np.array([0.01]), slo_s=0.05, until_s=2.0)
    assert seen.offered_count.tolist() == [0, 1]


def test_good_windows_and_longest_miss_skip_empty_windows() -> None:
    """Windows without requests count neither way."""
    seen = slo.windows(
        np.array([0.5, 1.5, 3.5, 4.5]),
        np.array([0.01, 1.0, 1.0, 0.01]),
        slo_s=0.05,
        until_s=5,
    )
    assert slo.good_windows_fraction(seen) == 0.5
    assert slo.longest_miss_s(seen) == 2.0


@pytest.mark.parametrize(
    ("timeline", "until_s", "expected"),
    [
        (((0, 1),), 10, 10),
        (((0, 1), (10, 3), (20, 1)), 30, 50),
        (((2, 2),), 10, 20),
        (((0, 1), (50, 9)), 10, 10),
        ((), 10, 0),
    ],
)
def test_instance_seconds_integrate_the_count(
    timeline: tuple[tuple[float, int], ...], until_s: float, expected: float
) -> None:
    """Each count lasts until the next change; what comes after the end costs nothing."""
    assert slo.instance_seconds(timeline, until_s) == expected


def test_instance_seconds_refuse_a_timeline_out_of_order() -> None:
    """Times that go back would give a negative cost."""
    with pytest.raises(ValueError, match="ascend"):
        slo.instance_seconds(((0, 1), (9, 2), (5, 3)), 10)
