"""Batches that were executed, and what is learnt from them: for the tests of ``Learnt``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from control.core.service.learnt import Learnt, ServiceTime
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE

SLOW = ServiceTime(alpha_s=0.008, beta_s=0.032)


def executed(_curve: ServiceTime = TRUE, _factor: float = 1.0, **batches: int) -> ModelStatistics:
    """``b4=10``: ten batches of 4 that took the true time (× factor)."""
    stats = {
        int(name[1:]): BatchStat(count=n, busy_s=n * _factor * _curve.of(int(name[1:])))
        for name, n in batches.items()
    }
    return ModelStatistics(batches=stats)


def noisy(rng: np.random.Generator, sizes: range, *, cv: float = 0.03) -> ModelStatistics:
    """A few batches of each size, which scatter around SLOW."""
    stats = {}
    for size in sizes:
        count = int(rng.integers(1, 5))
        busy_s = SLOW.of(size) * float(np.sum(1.0 + cv * rng.standard_normal(count)))
        stats[size] = BatchStat(count=count, busy_s=busy_s)
    return ModelStatistics(batches=stats)


def after(
    ticks: int,
    second: Callable[[], ModelStatistics],
    learnt: Learnt | None = None,
    *,
    instances: int = 1,
) -> Learnt:
    """What is learnt from so many seconds; ``second`` gives the statistics of each."""
    learnt = learnt or Learnt()
    for _ in range(ticks):
        learnt = learnt.absorb(second(), instances=instances, threads=1, span_s=1)
    return learnt


def seen_at(*levels: float, cores_busy: int = 10) -> Learnt:
    """Counts 1, 2, ... were seen fully busy, each this much slower than TRUE."""
    learnt = Learnt()
    for count, level in enumerate(levels, start=1):
        batches = dict.fromkeys(("b1", "b4", "b8"), cores_busy * count)
        statistics = executed(TRUE, level, **batches)
        busy_s = sum(stat.busy_s for stat in statistics.batches.values())
        for _ in range(10):
            learnt = learnt.absorb(statistics, instances=count, threads=1, span_s=busy_s / count)
    return learnt
