"""Service-level arithmetic on the times of single requests. Pure: numpy only, no clock, no I/O.

A latency is counted from the *intended* arrival and is ``inf`` when the request failed, was too
late, or was never sent: such a request missed every SLO, and no request is left out of a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Aligned windows over a run; each array has one entry per window.

    Attributes:
        start_s: When the window begins.
        window_s: Its length.
        offered_count: Requests that were meant to arrive in it.
        completed_count: Requests, of any window, whose answer came in it.
        p99_s: 99th percentile latency of the requests that were meant to arrive in it; nan when
            there were none, inf when more than 1 % of them missed for good.
        attainment_fraction: Share of them within the SLO; nan when there were none.
    """

    start_s: Floats
    window_s: float
    offered_count: Counts
    completed_count: Counts
    p99_s: Floats
    attainment_fraction: Floats


def percentile_s(latency_s: Floats, percent: float) -> float:
    """The smallest latency that at least ``percent`` % of the requests did not exceed.

    It is a latency that really occurred (numpy's ``inverted_cdf``, no interpolation), so
    ``percentile_s(x, 99) <= slo`` exactly when ``slo_attainment(x, slo) >= 0.99``.

    Returns:
        Seconds; inf when too few requests were answered, nan without requests.

    Example:
        >>> percentile_s(np.array([0.1, 0.2, 0.3, 0.4]), 50)
        0.2
    """
    if not latency_s.size:
        return float("nan")
    return float(np.percentile(latency_s, percent, method="inverted_cdf"))


def slo_attainment(latency_s: Floats, slo_s: float) -> float:
    """Share (0 to 1) of the offered requests that were answered within ``slo_s``; nan without any.

    Example:
        >>> slo_attainment(np.array([0.01, 0.2, np.inf, 0.04]), 0.05)
        0.5
    """
    if not latency_s.size:
        return float("nan")
    return float(np.count_nonzero(latency_s <= slo_s) / latency_s.size)


def goodput_rps(latency_s: Floats, slo_s: float, duration_s: float) -> float:
    """Requests within the SLO per second of the run."""
    return float(np.count_nonzero(latency_s <= slo_s) / duration_s)


def windows(
    intended_s: Floats,
    latency_s: Floats,
    *,
    slo_s: float,
    until_s: float,
    window_s: float = 1.0,
) -> Windows:
    """The run cut into windows of ``window_s`` from 0 to ``until_s``.

    Args:
        intended_s: float64 [n], when each request was meant to arrive.
        latency_s: float64 [n], from the intended arrival; inf where there was no good answer.
        slo_s: The SLO on latency.
        until_s: End of the last window; rounded up to whole windows.
        window_s: Length of a window. Below some 100 requests a window's p99 is its maximum.
    """
    count = max(1, int(np.ceil(until_s / window_s - 1e-9)))
    edges = np.arange(count + 1, dtype=np.float64) * window_s
    index = np.minimum((intended_s / window_s).astype(np.int64), count - 1)
    done_s = (intended_s + latency_s)[np.isfinite(latency_s)]
    completed, _ = np.histogram(done_s, edges)
    p99_s = np.full(count, np.nan)
    attained = np.full(count, np.nan)
    offered = np.bincount(index, minlength=count)
    for number in np.flatnonzero(offered):
        mine = latency_s[index == number]
        p99_s[number] = percentile_s(mine, 99)
        attained[number] = slo_attainment(mine, slo_s)
    return Windows(
        start_s=edges[:-1],
        window_s=window_s,
        offered_count=offered.astype(np.int64),
        completed_count=completed.astype(np.int64),
        p99_s=p99_s,
        attainment_fraction=attained,
    )


def good_windows_fraction(seen: Windows, target_fraction: float = 0.99) -> float:
    """Share of the windows with requests that attained at least ``target_fraction``."""
    attained = seen.attainment_fraction[~np.isnan(seen.attainment_fraction)]
    if not attained.size:
        return float("nan")
    return float(np.mean(attained >= target_fraction))


def longest_miss_s(seen: Windows, target_fraction: float = 0.99) -> float:
    """Seconds of the longest unbroken run of windows below ``target_fraction``.

    Windows without requests neither break a run nor lengthen it.
    """
    longest = current = 0
    for attained in seen.attainment_fraction[~np.isnan(seen.attainment_fraction)]:
        current = current + 1 if attained < target_fraction else 0
        longest = max(longest, current)
    return longest * seen.window_s


def instance_seconds(timeline: tuple[tuple[float, int], ...], until_s: float) -> float:
    """The integral of the instance count over time, the cost of a run.

    Args:
        timeline: (at_s, instances) at each change, ascending; the first one holds from 0 on.
        until_s: End of the run in seconds.

    Example:
        >>> instance_seconds(((0, 1), (10, 3), (20, 1)), 30)
        50.0
    """
    if not timeline:
        return 0.0
    starts = np.array([0.0, *(at_s for at_s, _ in timeline[1:])]).clip(0.0, until_s)
    if np.any(np.diff(starts) < 0):
        raise ValueError(f"timeline {timeline}: times must ascend")
    ends = np.append(starts[1:], until_s)
    counts = np.array([instances for _, instances in timeline], dtype=np.float64)
    return float(np.sum((ends - starts) * counts))


BLOCK_S = 5
RESAMPLES = 2000
LEVEL = 0.95


def paired_interval(
    pairs: Sequence[tuple[Counts, Counts]], *, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the difference of two attainments on the same arrivals.

    The percentile bootstrap over blocks of seconds: the seconds of a run hang together (a queue
    that has grown takes seconds to drain), so whole blocks are drawn.

    Args:
        pairs: for each pair of runs int64 [seconds] twice: requests that were meant to arrive, and
            how many more of them were in time in the first run than in the second.
        seed: of the draws.

    Returns:
        Its ends; nan without pairs.

    Source: H. Künsch, "The jackknife and the bootstrap for general stationary observations", 1989.
    """
    if not pairs:
        return (float("nan"), float("nan"))
    blocks = np.concatenate([_blocks(offered, gained) for offered, gained in pairs])
    random = np.random.default_rng(seed)
    drawn = blocks[random.integers(len(blocks), size=(RESAMPLES, len(blocks)))].sum(axis=1)
    offered, gained = drawn[:, 0], drawn[:, 1]
    low, high = np.percentile(gained / offered, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return (float(low), float(high))


def _blocks(offered: Counts, gained: Counts) -> Counts:
    """int64 [blocks, 2]: both, summed over the seconds of a block."""
    starts = np.arange(0, len(gained), BLOCK_S)
    return np.stack([np.add.reduceat(offered, starts), np.add.reduceat(gained, starts)], axis=1)
