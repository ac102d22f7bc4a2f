"""The arithmetic of ``conch perf bench tuned``: staircases, cold starts, pairs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perf import slo
from perf.bench.control.run import ControlRun
from perf.bench.control.score import Spread

TARGET = 0.99
GROWTH = 1.25
PRECISION = 0.05
HALF = 0.5
"""Where less was in time, the capacity is not a step away."""
COLD_S = 60.0
"""What finding the settings may take."""
LEAST_NOISE = 0.002
"""Differences of attainment below this are none: a request or two of a thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One rate, played for one window."""

    rate_rps: float
    attainment: float
    p99_s: float

    @property
    def carried(self) -> bool:
        """Whether the SLO was met."""
        return self.attainment >= TARGET


def bounds(tried: Sequence[Tried]) -> tuple[float | None, float | None]:
    """(greatest rate that was carried, smallest rate above it that was not).

    A rate that missed once is open, however much: a machine that stood still made one search end
    at a quarter of the capacity. Twice is a verdict.
    """
    low = max((t.rate_rps for t in tried if t.carried), default=None)
    missed = [t for t in tried if not t.carried and (low is None or t.rate_rps > low)]
    rates = [t.rate_rps for t in missed]
    return low, min((rate for rate in rates if rates.count(rate) > 1), default=None)


def next_rate(
    tried: Sequence[Tried], start_rps: float, *, precision: float = PRECISION
) -> float | None:
    """The rate to play next; None when the capacity is known to ``precision``.

    Example:
        >>> next_rate([Tried(rate_rps=100.0, attainment=1.0, p99_s=0.01)], 100.0)
        125.0
    """
    if not tried:
        return start_rps
    low, high = bounds(tried)
    last = tried[-1]
    if not last.carried and high != last.rate_rps and (low is None or last.rate_rps > low):
        return last.rate_rps  # once more
    if low is None:
        return (high or last.rate_rps) / (GROWTH if last.attainment >= HALF else 2.0)
    if high is None:
        return low * GROWTH
    return None if high <= low * (1.0 + precision) else (low * high) ** 0.5


def capacity_rps(tried: Sequence[Tried]) -> float:
    """The greatest rate that was carried; 0 when none was."""
    return bounds(tried)[0] or 0.0


def cold_start(run: ControlRun, *, allowed_s: float = COLD_S) -> dict[str, float]:
    """What came of a cold start under load; times in seconds from the first request.

    Returns:
        final_s: when the last change that began within ``allowed_s`` had ended; 0 without one.
        met_s: the first second from which everything up to the end attains the target, and so do
            its own next 5 seconds; inf when there is none.
        changes_after: changes that began after ``allowed_s``.
        held_attainment, held_p99_s: of the requests after ``allowed_s``.
        attainment: of all.
    """
    early = [change.ended_s for change in run.changes if change.begun_s <= allowed_s]
    held = run.latency_s[run.intended_s >= allowed_s]
    met_s = float("inf")
    for second in range(int(run.duration_s) - 4):
        rest = run.latency_s[run.intended_s >= second]
        soon = run.latency_s[(run.intended_s >= second) & (run.intended_s < second + 5)]
        if not rest.size:
            break
        if all(
            not some.size or slo.slo_attainment(some, run.slo_s) >= TARGET for some in (rest, soon)
        ):
            met_s = float(second)
            break
    return {
        "final_s": max(early, default=0.0),
        "met_s": met_s,
        "changes": float(len(run.changes)),
        "changes_after": float(len(run.changes) - len(early)),
        "held_attainment": slo.slo_attainment(held, run.slo_s),
        "held_p99_s": slo.percentile_s(held, 99),
        "attainment": slo.slo_attainment(run.latency_s, run.slo_s),
    }


def spread(values: Sequence[float]) -> Spread:
    """Median and range.

    Example:
        >>> spread([3.0, 1.0, 2.0]).median
        2.0
    """
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def worse(rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the controller attained less than the default beside it by more than the noise.

    Args:
        rounds: each with the attainments ``before`` and ``after`` (the default, twice) and
            ``conch`` between them. The noise is the median difference of the two defaults.
    """
    noise = statistics.median(abs(r["before"] - r["after"]) for r in rounds)
    lost = statistics.median((r["before"] + r["after"]) / 2 - r["conch"] for r in rounds)
    return bool(lost > max(LEAST_NOISE, noise))
