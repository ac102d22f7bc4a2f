"""The arrival rate over the next few seconds: Holt's level and trend, the trend damped.

Theory of operation. A change takes seconds to be made, so the load that matters is the one when it
is done. The level follows the rate with a time constant, the trend follows the level with a longer
one, and is damped: a climb is not believed to go on for ever (Gardner and McKenzie, *Forecasting
trends in time series*, 1985). Steps may be of any length: the constants are in seconds. How far the
forecasts were off, decayed, is the margin that a careful reader adds.

The constants were chosen on a recorded trace (examples/traces) and on steps and bursts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVEL_S = 2.0
TREND_S = 20.0
DAMPED_PER_S = 0.8
RESIDUAL_S = 30.0
MOST_RPS = 1e9
READING_S = 1.0
"""The residual is that of a rate read over this long, whatever the length of the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the rates so far say of those to come.

    Attributes:
        at_s: the end of the newest interval; None before the first.
        seen_s: seconds of intervals so far.
        level_rps: smoothed arrival rate, 0 or more.
        trend_rps_per_s: its slope.
        variance: decayed mean of the squared errors of one step, (requests/s)²; what Poisson
            arrivals scatter in an interval is exchanged for what they do in a second.
    """

    at_s: float | None = None
    seen_s: float = 0.0
    level_rps: float = 0.0
    trend_rps_per_s: float = 0.0
    variance: float = 0.0

    def ahead_rps(self, horizon_s: float) -> float:
        """The rate ``horizon_s`` (0 or more) after the newest interval, 0 or more.

        Example:
            >>> Forecast(level_rps=100.0, trend_rps_per_s=10.0).ahead_rps(0)
            100.0
        """
        return max(0.0, self.level_rps + self.trend_rps_per_s * _damped_s(horizon_s))

    @property
    def residual_rps(self) -> float:
        """Standard deviation of the error of one step, for a rate read over a second."""
        return math.sqrt(max(0.0, self.variance))


def update(forecast: Forecast, rate_rps: float, at_s: float, span_s: float) -> Forecast:
    """The forecast after an interval of ``span_s`` that ended at ``at_s`` and had this mean rate.

    What is not finite, negative, beyond reason, of no length, or not newer than the forecast
    changes nothing.
    """
    if not (0 <= rate_rps <= MOST_RPS and 0 < span_s < math.inf and math.isfinite(at_s)):
        return forecast
    if forecast.at_s is None:
        return Forecast(at_s=at_s, seen_s=span_s, level_rps=rate_rps)
    elapsed_s = at_s - forecast.at_s
    if elapsed_s <= 0:
        return forecast
    seen_s = forecast.seen_s + span_s
    expected_rps = forecast.ahead_rps(elapsed_s)
    error_rps = rate_rps - expected_rps
    step_rps = error_rps * _share(span_s, LEVEL_S, seen_s)
    trend = forecast.trend_rps_per_s * math.pow(DAMPED_PER_S, elapsed_s)
    trend += step_rps / elapsed_s * (1.0 - math.exp(-elapsed_s / TREND_S))
    squared = error_rps**2 + expected_rps * (1.0 / READING_S - 1.0 / span_s)
    doubt = _share(span_s, RESIDUAL_S, seen_s)
    return Forecast(
        at_s=at_s,
        seen_s=seen_s,
        level_rps=expected_rps + step_rps,
        trend_rps_per_s=trend,
        variance=forecast.variance + (squared - forecast.variance) * doubt,
    )


def _share(span_s: float, constant_s: float, seen_s: float) -> float:
    """How much the newest interval weighs; at the start all intervals weigh the same."""
    return max(1.0 - math.exp(-span_s / constant_s), span_s / seen_s)


def _damped_s(horizon_s: float) -> float:
    """The integral of the damping over the horizon: seconds that the trend still counts."""
    return (1.0 - math.pow(DAMPED_PER_S, horizon_s)) / -math.log(DAMPED_PER_S)
