"""A clock that never jumps, whatever happens to the wall clock."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from control.watch.clock import OnClock, SteadyClock
from control.watch.sources import Sample
from serving import metrics


class Times:
    """A wall clock that is set now and then, and time itself."""

    def __init__(self) -> None:
        self.true_s, self.error_s = 100.0, 1_000_000.0

    def wall(self) -> float:
        """What people's clocks say."""
        return self.true_s + self.error_s

    def monotonic(self) -> float:
        """Since the machine started."""
        return self.true_s


@pytest.mark.parametrize("step_s", [-3600.0, -5.0, 0.0, 9.0, 86400.0])
def test_a_clock_that_is_set_makes_no_span_longer_or_shorter(step_s: float) -> None:
    """A second stays one; it began at the time of day."""
    times = Times()
    clock = SteadyClock(wall=times.wall, monotonic=times.monotonic)
    began_s = clock()
    assert began_s == times.wall()
    times.true_s += 1.0
    times.error_s += step_s
    assert clock() - began_s == 1.0


@pytest.mark.parametrize("step_s", [-3600.0, 9.0])
def test_samples_of_a_prometheus_keep_their_spans(step_s: float) -> None:
    """It stamps by the wall clock; the same stamp stays the same time."""
    times, stamps = Times(), [0.0]
    clock = SteadyClock(wall=times.wall, monotonic=times.monotonic)

    class Source:
        """One sample, stamped a second ago or when it was first seen."""

        def sample(self, models: Collection[str]) -> Sample:
            """As a Prometheus answers."""
            return Sample(snapshot=metrics.parse(""), at_s=dict.fromkeys(models, stamps[0]))

    source = OnClock(Source(), clock)
    stamps[0] = times.wall() - 1.0
    first = source.sample(["m"]).at_s["m"]
    assert first == clock() - 1.0
    times.error_s += step_s
    times.true_s += 1.0
    assert source.sample(["m"]).at_s["m"] == first
    stamps[0] = times.wall() - 1.0
    assert source.sample(["m"]).at_s["m"] == first + 1.0
