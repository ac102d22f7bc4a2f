"""What one model answers while it is loaded in one version or another, or not at all. Pure.

One FIFO queue and one instance, which takes what waits up to the largest batch. While nothing is
loaded, requests wait.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perf.bench.ladder.loads import BEST, Load
from perf.traces import Times

Period = tuple[float, int | None]
"""From when on, s, which version is loaded; None for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of one model; arrays of one entry a request.

    Attributes:
        in_time, at_best: bool.
    """

    in_time: NDArray[np.bool_]
    at_best: NDArray[np.bool_]


def answers(load: Load, arrival_s: Times, periods: list[Period]) -> Answers:
    """What becomes of each request.

    Args:
        load: service times and SLO.
        arrival_s: float64 [n], ascending.
        periods: ascending, the first from 0 on.
    """
    times, starts = arrival_s.tolist(), [begin_s for begin_s, _ in periods]
    latency_s = np.full(len(times), math.inf)
    at_best = np.zeros(len(times), dtype=bool)
    head, free_s = 0, 0.0
    while head < len(times):
        at_s = max(times[head], free_s)
        place = bisect_right(starts, at_s) - 1
        while place < len(periods) and periods[place][1] is None:
            place += 1
        if place == len(periods):
            break  # it never comes back
        at_s, version = max(at_s, starts[place]), periods[place][1]
        assert version is not None
        size = min(bisect_right(times, at_s) - head, load.largest_batch)
        free_s = at_s + load.service(version).of(size)
        latency_s[head : head + size] = free_s - arrival_s[head : head + size]
        at_best[head : head + size] = version == BEST
        head += size
    in_time = latency_s <= load.slo_s
    return Answers(in_time=in_time, at_best=at_best & in_time)
