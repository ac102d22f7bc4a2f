"""What happened between two looks, for rules that are asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from control.core.load.windows import Interval
from serving.statistics import ModelStatistics


def counted(
    end_s: float,
    count: float,
    *,
    span_s: float = 1.0,
    statistics: ModelStatistics | None = None,
) -> Interval:
    """So many requests came and were answered; nothing is known of their times."""
    return Interval(
        start_s=end_s - span_s,
        end_s=end_s,
        arrivals=count,
        completed=count,
        failed=0.0,
        pending=0.0,
        statistics=statistics,
        instances=1,
        threads=1,
    )


def in_a_row(counts: Sequence[float], *, span_s: float = 1.0) -> list[Interval]:
    """One after the other, the first from 0 s on."""
    return [counted((n + 1) * span_s, count, span_s=span_s) for n, count in enumerate(counts)]


def timed(
    end_s: float = 1.0,
    *,
    span_s: float = 1.0,
    arrivals: float = 100.0,
    completed: float = 100.0,
    failed: float = 0.0,
    pending: float = 0.0,
    wait_s: float = 0.0,
    compute_s: float = 0.02,
) -> Interval:
    """An interval; the times are those of one request."""
    return replace(
        counted(end_s, arrivals, span_s=span_s),
        completed=completed,
        failed=failed,
        pending=pending,
        request_s=(wait_s + compute_s) * completed,
        queue_s=wait_s * completed,
        compute_s=compute_s * completed,
    )
