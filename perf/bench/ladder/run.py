"""One contender under one load, and what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from perf.bench.ladder.contenders import CONTENDERS
from perf.bench.ladder.loads import Load
from perf.bench.ladder.server import answers

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The figures of one run.

    Attributes:
        contender: its name.
        seed: of the load.
        requests: how many came.
        attainment: share of them within the SLO.
        least_attainment: of any model.
        at_best: share of all requests that the best version answered within the SLO.
        changes_per_hour: versions changed, or models loaded.
        most_fraction: the greatest use of the memory, but for what a change loads beside; 0 where
            it never changes.
    """

    contender: str
    seed: int
    requests: int
    attainment: float
    least_attainment: float
    at_best: float
    changes_per_hour: float
    most_fraction: float


def play(name: str, load: Load) -> Run:
    """One run.

    Args:
        name: one of ``CONTENDERS``.
        load: what comes.
    """
    arrivals = load.arrivals()
    held = CONTENDERS[name].plays(load, arrivals)
    met = [answers(load, *each) for each in zip(arrivals, held.periods, strict=True)]
    requests = sum(times.size for times in arrivals)
    return Run(
        contender=name,
        seed=load.seed,
        requests=requests,
        attainment=sum(int(one.in_time.sum()) for one in met) / max(1, requests),
        least_attainment=min(float(one.in_time.mean()) for one in met if one.in_time.size),
        at_best=sum(int(one.at_best.sum()) for one in met) / max(1, requests),
        changes_per_hour=held.changes * HOUR_S / load.duration_s,
        most_fraction=held.most_bytes / load.memory_bytes,
    )
