"""The traffic envelope: the most arrivals that any window of a length has seen.

Theory of operation. A mean rate hides how requests bunch; the envelope keeps, for windows of 1, 2,
4, … 60 s, the highest rate of any of them (InferLine: Crankshaw et al., SoCC 2020, section 5; it
takes the idea from network calculus). Counts come per interval, and are taken as even within one;
so the cumulative count is a broken line, and a window that slides along it has most when one of
its ends is at a corner: only those windows are looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOWS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
LOOK_BACK_S = 60.0
_CLOSE_S = 1e-6


def envelope(
    end_s: ArrayLike,
    arrivals: ArrayLike,
    span_s: ArrayLike,
    at_s: float,
    *,
    windows_s: tuple[float, ...] = WINDOWS_S,
) -> dict[float, float]:
    """The highest rate, in requests a second, by length of window in seconds.

    Args:
        end_s: float [n], when each interval ended, ascending.
        arrivals: float [n], requests that came in it.
        span_s: float [n], its length; intervals do not overlap, gaps count as no arrivals.
        at_s: only what came in the last minute before this counts.
        windows_s: lengths; one that is longer than what was seen is left out.

    Intervals with a number that is not finite, or negative, are left out.

    Example:
        >>> envelope([1, 2, 3], [10, 30, 20], [1, 1, 1], 3.0, windows_s=(1, 2, 8))
        {1: 30.0, 2: 25.0}
    """
    end = np.asarray(end_s, dtype=np.float64)
    count = np.asarray(arrivals, dtype=np.float64)
    start = end - np.asarray(span_s, dtype=np.float64)
    good = (
        (count >= 0)
        & (count < np.inf)
        & np.isfinite(start)
        & (start < end)
        & (end <= at_s + _CLOSE_S)
    )
    good &= end > at_s - LOOK_BACK_S
    if not good.any():
        return {}
    end, count, start = end[good], count[good], start[good]
    corner_s, total = _cumulative(start, end, count)
    covered_s = corner_s[-1] - corner_s[0]
    return {
        window_s: _most(corner_s, total, window_s) / window_s
        for window_s in windows_s
        if window_s <= covered_s + _CLOSE_S
    }


def _cumulative(
    start: NDArray[np.float64], end: NDArray[np.float64], count: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners of the cumulative count: times (ascending) and arrivals until then."""
    corner_s = np.column_stack((start, end)).ravel()
    total = np.column_stack((np.zeros_like(count), count)).ravel()
    return np.maximum.accumulate(corner_s), np.cumsum(total)


def _most(corner_s: NDArray[np.float64], total: NDArray[np.float64], window_s: float) -> float:
    """The most arrivals within any window of this length."""
    from_corner = np.interp(corner_s + window_s, corner_s, total) - total
    to_corner = total - np.interp(corner_s - window_s, corner_s, total)
    return float(max(from_corner.max(), to_corner.max()))
