"""Trend and season together, as the state remembers them."""

from __future__ import annotations

import math

from control.core.foresight import LOOKED_FOR_EVERY_S, Foresight
from tests.unit.intervals import counted


def _wave_rps(at_s: float) -> float:
    """Between 50 and 150 req/s, once in four minutes."""
    return 100.0 + 50.0 * math.sin(2 * math.pi * at_s / 240.0)


def _waves(seconds: float) -> Foresight:
    known = Foresight()
    for look in range(1, int(seconds / 2.0)):
        at_s = 1000.0 + 2.0 * look
        known = known.absorb(counted(at_s, 2.0 * _wave_rps(at_s), span_s=2.0), horizon_s=10.0)
    return known


def test_a_wave_that_comes_again_is_found_and_foreseen() -> None:
    """After an hour of it, ten seconds ahead is known within a few requests."""
    known = _waves(3600.0)
    assert known.season is not None
    assert abs(known.season.period_s - 240.0) < 12.0
    at_s = known.trend.at_s
    assert at_s is not None
    assert known.ahead_rps(10.0) >= _wave_rps(at_s + 10.0) - 8.0


def test_there_is_no_season_in_two_minutes() -> None:
    """Two full periods are needed."""
    assert _waves(120.0).season is None


def test_a_season_is_looked_for_once_a_minute_only() -> None:
    """It takes a millisecond."""
    known = _waves(3600.0)
    later = known.absorb(counted(known.looked_s + 2.0, 200.0, span_s=2.0), horizon_s=10.0)
    assert later.looked_s == known.looked_s
    assert later.season is known.season
    at_s = known.looked_s + LOOKED_FOR_EVERY_S
    assert known.absorb(counted(at_s, 200.0, span_s=2.0), horizon_s=10.0).looked_s == at_s


def test_a_gap_begins_the_trend_anew_and_keeps_the_season() -> None:
    """What was known of the day is still true after a missing look."""
    known = _waves(3600.0)
    after = known.absorb(None, horizon_s=10.0)
    assert after.trend.at_s is None
    assert after.season is known.season
    assert after.ahead_rps(10.0) == 0.0
