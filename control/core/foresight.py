"""What is known of the load to come: level and damped trend, and a season where one proved itself.

A season is looked for once a minute, as that takes about a millisecond, and judged by the newest
quarter of the record (``seasonal``). Where there is one, the greater of trend and wave counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from control.core import forecast as trends
from control.core import seasonal
from control.core.forecast import Forecast
from control.core.seasonal import History, Seasonal
from control.core.windows import LARGEST, Interval

LOOKED_FOR_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Memory of one model's arrival rate.

    Attributes:
        trend: level and damped trend; begun anew after a gap.
        history: the rates of a long time, in bins.
        season: the wave in it; None without one.
        looked_s: when a season was looked for last.
    """

    trend: Forecast = field(default_factory=Forecast)
    history: History = field(default_factory=History)
    season: Seasonal | None = None
    looked_s: float = 0.0

    @classmethod
    def recalled(cls, rates: Iterable[tuple[float, float]], *, until_s: float) -> Foresight:
        """The memory of a controller that has just started, with what came before it.

        Args:
            rates: (at_s, requests/s), oldest first, each a mean over the ``BIN_S`` before
                ``at_s``. One that is negative, no number or beyond reason is left out.
            until_s: one that is later than this is left out, too.
        """
        history = History()
        for at_s, rate_rps in rates:
            if at_s <= until_s and rate_rps <= LARGEST:
                history = history.add(rate_rps, at_s, seasonal.BIN_S)
        return cls(history=history)

    def absorb(self, new: Interval | None, *, horizon_s: float) -> Foresight:
        """The memory with one more interval; None is a gap.

        Args:
            new: the newest interval.
            horizon_s: how far ahead a season must help.
        """
        if new is None:
            return replace(self, trend=Forecast())
        rate_rps = new.uncached / new.span_s
        known = replace(
            self,
            trend=trends.update(self.trend, rate_rps, new.end_s, new.span_s),
            history=self.history.add(rate_rps, new.end_s, new.span_s),
        )
        if abs(new.end_s - self.looked_s) < LOOKED_FOR_EVERY_S:
            return known
        found = seasonal.find(known.history, horizon_s=horizon_s)
        return replace(known, season=found, looked_s=new.end_s)

    def ahead_rps(self, horizon_s: float) -> float:
        """The rate ``horizon_s`` after the newest interval; 0 or more."""
        by_trend = self.trend.ahead_rps(horizon_s)
        if self.season is None or self.trend.at_s is None:
            return by_trend
        change_rps = self.season.change_rps(self.trend.at_s, horizon_s)
        return max(by_trend, self.trend.level_rps + change_rps)

    @property
    def residual_rps(self) -> float:
        """Standard deviation of the trend's error of one step."""
        return self.trend.residual_rps
