"""Did the clock step between two looks? By the pace of the looks before, and what came in each.

A look that is late by itself has the arrivals of its length. One whose length changed and whose
arrivals did not was not late: the clock was set. Nothing is learnt from such an interval. Looks
that go on at another pace for a while are believed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from control.core.load.windows import Interval

STEP = 2.0
"""Times that an interval must be longer, or shorter, than usual."""
KEPT, LEAST = 5, 3
SIMILAR = 1.5
"""Intervals at another pace are alike when the longest is so many times the shortest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What is remembered of the last looks.

    Attributes:
        spans: (seconds, arrivals) of trusted intervals, newest last.
        odd_s: lengths of those since then that looked like steps.
    """

    spans: tuple[tuple[float, float], ...] = ()
    odd_s: tuple[float, ...] = ()

    def absorb(self, new: Interval) -> tuple[Pace, bool]:
        """The memory with one more interval, and whether the clock stepped within it.

        Example:
            Intervals of 1 s with 200 arrivals each, then one of 9 s with 200: a step.
        """
        span = (new.span_s, new.arrivals)
        if not self._stepped(new):
            return Pace(spans=(*self.spans, span)[-KEPT:]), False
        odd_s = (*self.odd_s, new.span_s)[-KEPT:]
        if len(odd_s) == KEPT and max(odd_s) <= SIMILAR * min(odd_s):
            return Pace(spans=(span,)), False
        return Pace(spans=self.spans, odd_s=odd_s), True

    def _stepped(self, new: Interval) -> bool:
        """Whether the arrivals fit the usual length, and not that of the interval."""
        if len(self.spans) < LEAST:
            return False
        usual_s = median(seconds for seconds, _ in self.spans)
        rate_rps = median(count / seconds for seconds, count in self.spans)
        expected, claimed = rate_rps * usual_s, rate_rps * new.span_s
        between = math.sqrt(expected * claimed)
        if new.span_s >= STEP * usual_s:
            return new.arrivals < between
        return STEP * new.span_s <= usual_s and new.arrivals > between
