"""What came of one contender under one load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perf.bench.sharing.loads import Load

STARVED = 0.2
"""A model that attains less is starved, whatever the others have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """One run.

    Attributes:
        contender: its label.
        simulated: whether the server was the simulator.
        ratio: of the load.
        phases: attainment by model, and in it by phase; nan without requests.
        models: attainment by model, over all phases.
        attainment: of all requests; refused and unanswered ones are missed.
        refused: share of all requests.
        mean_batch: by model, of those executed since it was loaded last; empty where unknown.
        changes: settings that were changed, in the warm-up, too; reloads: of these.
        busy_fraction: mean use of the machine's cores; nan in the simulator.
        load_average: of the machine at the end, over a minute; nan in the simulator.
        valid: whether the client kept up.
    """

    contender: str
    simulated: bool
    ratio: float
    phases: dict[str, list[float]]
    models: dict[str, float]
    attainment: float
    refused: float
    mean_batch: dict[str, float]
    changes: int = 0
    reloads: int = 0
    busy_fraction: float = float("nan")
    load_average: float = float("nan")
    valid: bool = True

    @property
    def starved(self) -> bool:
        """Whether a model got next to nothing."""
        return min(self.models.values()) < STARVED


def by_phase(
    load: Load, intended_s: NDArray[np.float64], good: NDArray[np.bool_]
) -> tuple[list[float], float, int, int]:
    """(attainment by phase, over all, requests in time, requests); the warm-up is left out.

    Args:
        load: whose phases.
        intended_s: float64 [n], when each request was meant to come; the warm-up from 0 on.
        good: bool [n], whether it was in time.
    """
    phase = np.floor((intended_s - load.warm_up_s) / load.phase_s).astype(int)
    scored = (phase >= 0) & (phase < load.phases)
    parts = []
    for number in range(load.phases):
        inside = good[phase == number]
        parts.append(float(inside.mean()) if inside.size else float("nan"))
    whole = good[scored]
    return parts, float(whole.mean()) if whole.size else float("nan"), int(whole.sum()), whole.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What the requests of one model met; arrays of one entry a request.

    Attributes:
        intended_s: float64, when it was meant to come; the warm-up from 0 on.
        in_time, refused: bool.
    """

    intended_s: NDArray[np.float64]
    in_time: NDArray[np.bool_]
    refused: NDArray[np.bool_]


def counted(contender: str, load: Load, met: Mapping[str, Met], *, simulated: bool) -> Sharing:
    """The figures of a run, from what the requests met, by model; the rest is as it is unknown."""
    phases, models, good, every, refused = {}, {}, 0, 0, 0
    for name, seen in met.items():
        phases[name], models[name], some, whole = by_phase(load, seen.intended_s, seen.in_time)
        good, every = good + some, every + whole
        refused += int(seen.refused[seen.intended_s >= load.warm_up_s].sum())
    return Sharing(
        contender=contender,
        simulated=simulated,
        ratio=load.ratio,
        phases=phases,
        models=models,
        attainment=good / max(1, every),
        refused=refused / max(1, every),
        mean_batch={},
    )
