"""How much instances slow each other down: Amdahl's law on CPU cores, and what is measured.

Theory of operation. With A busy instances a batch takes share(A)^κ · (1 + φ·(A − 1)) times as long
as alone. ``share`` is what the cores say (1 on an accelerator): beyond them, time is sliced.
φ in [0, 1] is everything else that is shared: memory, caches, the device (0 is full overlap, 1
slices time). κ in [0, 1] says whether the model needs the cores at all: one that mostly waits does
not. Before two instance counts have been seen, κ = 1 and φ = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PARALLEL = 0.5
"""Share of a batch's work that more threads speed up, until it is measured (Amdahl's p)."""
RIDGE = 0.01
"""Pulls φ to 0 where the counts seen differ by little: a tenth of an instance proves nothing."""
KAPPAS = (1.0, 0.75, 0.5, 0.25, 0.0)
KAPPA_COST = 1e-4


class Level(NamedTuple):
    """How slow one setting was.

    Attributes:
        active: busy instances while a batch was executed, 1 or more.
        share: what the cores alone make of that.
        level: time relative to the curve that all settings have in common.
        weight: 0 to 1.
    """

    active: float
    share: float
    level: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """The fitted law: factor(A) = share(A)^``kappa`` · (1 + ``phi``·(A − 1))."""

    kappa: float = 1.0
    phi: float = 0.0

    def factor(self, active: float, *, share: float) -> float:
        """How long a batch takes beside ``active`` − 1 others, relative to alone.

        Example:
            >>> Interference(phi=0.5).factor(3, share=1.0)
            2.0
        """
        return float(share**self.kappa * (1.0 + self.phi * (active - 1.0)))


def relative_time(instances: float, *, threads: int, cores: int | None) -> float:
    """How long a batch takes when all instances are busy, relative to one thread on free cores.

    Amdahl's law for the threads, times the share of a core that each gets. On 2 cores: 1 instance
    of 2 threads takes 0.75, 2 instances of 1 thread take 1 each (1.5 times the throughput), and 2
    of 2 threads take 1.5 (no more throughput than one of them). ``cores`` is None where the
    instances do not run on cores that they share (a GPU).

    Example:
        >>> relative_time(2, threads=2, cores=2)
        1.5
    """
    threads = max(1, threads)
    return ((1.0 - PARALLEL) + PARALLEL / threads) * share(instances, threads=threads, cores=cores)


def share(active: float, *, threads: int, cores: int | None) -> float:
    """By how much the threads outnumber the cores; 1 when they do not."""
    return 1.0 if cores is None else max(1.0, active * threads / max(1, cores))


def fitted(levels: Sequence[Level]) -> Interference:
    """The law that is nearest to the levels, in relative error."""
    differ = len({level.share for level in levels}) > 1
    trials = [_with_kappa(levels, kappa) for kappa in (KAPPAS if differ else KAPPAS[:1])]
    return min(trials, key=lambda trial: trial[0])[1]


def _with_kappa(levels: Sequence[Level], kappa: float) -> tuple[float, Interference]:
    """The best φ for this κ, and what is then left of the error."""
    rows = [(at.active - 1.0, at.level / at.share**kappa, at.weight) for at in levels]
    weight = sum(w for *_, w in rows)
    mean_x = sum(w * x for x, _, w in rows) / weight
    mean_y = sum(w * y for _, y, w in rows) / weight
    spread = sum(w * (x - mean_x) ** 2 for x, _, w in rows)
    slope = sum(w * (x - mean_x) * (y - mean_y) for x, y, w in rows) / (spread + RIDGE)
    alone = mean_y - slope * mean_x
    phi = 1.0 if alone <= 0 else min(1.0, max(0.0, slope / alone))
    # The level for this φ, clipped or not, by least squares.
    alone = sum(w * y * (1 + phi * x) for x, y, w in rows) / sum(
        w * (1 + phi * x) ** 2 for x, _, w in rows
    )
    left = sum(w * (y / (alone * (1.0 + phi * x)) - 1.0) ** 2 for x, y, w in rows)
    return left + KAPPA_COST * (1.0 - kappa) ** 2, Interference(kappa=kappa, phi=phi)
