"""Service time of a batch, ℓ(b) = α·b + β, learnt from Triton's ``batch_stats``.

Theory of operation. Each executed batch size b has a count n_b and a mean time; old evidence is
forgotten exponentially. Weighted least squares gives α and β, both kept at 0 or more. At low load
only b = 1 and 2 are seen, and a line through these says nothing about b = 16; so a prior line with
the weight of a few batches pulls where evidence is thin: half of ℓ(1) is fixed cost, half grows
with the batch. Evidence is kept per instance count and threads, because instances that share cores
slow each other down; for a setting never seen, ℓ is scaled from the
nearest one by ``relative_time``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.statistics import ModelStatistics

Evidence = Mapping[int, tuple[float, float]]
"""Batch size → (decayed number of batches, decayed seconds)."""

PRIOR_BATCHES = 3.0
PRIOR_SIZE = 8
HALF_LIFE_S = 30.0
PARALLEL = 0.5
"""Share of a batch's work that more threads speed up, until it is measured (Amdahl's p)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """ℓ(b) = ``alpha_s``·b + ``beta_s``, seconds for a batch of b."""

    alpha_s: float
    beta_s: float

    def of(self, batch_size: int) -> float:
        """Seconds that a batch takes.

        Example:
            >>> round(ServiceTime(alpha_s=0.001, beta_s=0.004).of(8), 6)
            0.012
        """
        return self.alpha_s * batch_size + self.beta_s

    def scaled(self, factor: float) -> ServiceTime:
        """The same curve, slower by ``factor``."""
        return ServiceTime(alpha_s=self.alpha_s * factor, beta_s=self.beta_s * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """Evidence by (instances, threads of one instance)."""

    seen: Mapping[tuple[int, int], Evidence] = field(default_factory=dict)

    def absorb(
        self, executed: ModelStatistics, *, instances: int, threads: int, span_s: float
    ) -> Learnt:
        """The evidence after ``span_s`` more seconds in which these batches were executed."""
        keep = 0.5 ** (span_s / HALF_LIFE_S)
        old = self.seen.get((instances, threads), {})
        new = {size: (n * keep, s * keep) for size, (n, s) in old.items() if n * keep > 0.01}
        for size, stat in executed.batches.items():
            n, s = new.get(size, (0.0, 0.0))
            new[size] = (n + stat.count, s + stat.busy_s)
        return Learnt(seen={**self.seen, (instances, threads): new})

    def at(self, instances: int, *, threads: int, cores: int) -> ServiceTime | None:
        """ℓ for this setting; scaled from the nearest one seen; None without any evidence."""
        known = [key for key, evidence in self.seen.items() if evidence]
        if not known:
            return None
        # The same threads first, then the nearest count, then the smaller.
        nearest = min(known, key=lambda k: (abs(k[1] - threads), abs(k[0] - instances), k[0]))
        curve = fit(self.seen[nearest])
        if curve is None or nearest == (instances, threads):
            return curve
        return curve.scaled(
            relative_time(instances, threads=threads, cores=cores)
            / relative_time(nearest[0], threads=nearest[1], cores=cores)
        )


def relative_time(instances: int, *, threads: int, cores: int) -> float:
    """How long a batch takes when all instances are busy, relative to one thread on free cores.

    Amdahl's law for the threads, times the share of a core that each gets. On 2 cores: 1 instance
    of 2 threads takes 0.75, 2 instances of 1 thread take 1 each (1.5 times the throughput), and 2
    of 2 threads take 1.5 (no more throughput than one of them).

    Example:
        >>> relative_time(2, threads=2, cores=2)
        1.5
    """
    shared = max(1.0, instances * threads / max(1, cores))
    return ((1.0 - PARALLEL) + PARALLEL / max(1, threads)) * shared


def fit(evidence: Evidence) -> ServiceTime | None:
    """α and β by weighted least squares with the prior of the module's docstring.

    None without a single executed batch.
    """
    points = [(float(b), s / n, n) for b, (n, s) in evidence.items() if n > 0]
    if not points:
        return None
    base_s = _one(points)
    points.append((1.0, base_s, PRIOR_BATCHES))
    points.append((float(PRIOR_SIZE), base_s * (0.5 + 0.5 * PRIOR_SIZE), PRIOR_BATCHES))
    weight = sum(w for _, _, w in points)
    mean_b = sum(w * b for b, _, w in points) / weight
    mean_s = sum(w * s for _, s, w in points) / weight
    variance = sum(w * (b - mean_b) ** 2 for b, _, w in points)
    alpha_s = sum(w * (b - mean_b) * (s - mean_s) for b, s, w in points) / variance
    if alpha_s <= 0:
        return ServiceTime(alpha_s=0.0, beta_s=mean_s)
    beta_s = mean_s - alpha_s * mean_b
    if beta_s < 0:  # the best line through the origin
        through = sum(w * b * s for b, s, w in points) / sum(w * b * b for b, _, w in points)
        return ServiceTime(alpha_s=through, beta_s=0.0)
    return ServiceTime(alpha_s=alpha_s, beta_s=beta_s)


def _one(points: list[tuple[float, float, float]]) -> float:
    """ℓ(1) from the smallest batch seen, by the prior's own shape where b = 1 was not seen."""
    b, seconds, _ = min(points)
    return seconds / (0.5 + 0.5 * b)
