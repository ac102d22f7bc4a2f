"""Service-time curves: what a batch of b takes, and how a curve is drawn through what was seen.

Theory of operation. The first guess is a line, ℓ(b) = α·b + β, by least squares on relative errors
(the scatter of a batch's time grows with the time). How much a batch size weighs grows with the
number of batches seen, slower than the number at first (one batch is noise) and hardly at all in
the end (what all batches of an hour share does not average out). At low load only b = 1 and 2 are
seen, and a line through these alone would say anything about b = 16; so a prior of known shape
weighs as much as one batch. Where the line is clearly wrong (a kernel's tile size, a TensorRT
profile), a table through the sizes seen, made to rise by pooling adjacent violators, is taken
instead; between its sizes it is interpolated, beyond them it follows the line's slope.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

PRIOR_SIZES = (1, 8)
PRIOR_WEIGHT = 0.2
"""Of each of the prior's two points: as much as one batch, see ``trust``."""
THIN = 4.0
SATURATION = 100.0
TABLE_SIZES = 3
TABLE_BATCHES = 5.0
TABLE_GAIN = 0.1
LEAST_NOISE = 0.03
"""Coefficient of variation that is assumed at least when a line and a table are compared."""


Steps = tuple[int | None, int | None, int, tuple[tuple[int, int | None], ...]]
"""A rounded curve: α, β, the coefficient of variation, and the table's times as whole steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """ℓ(b) = ``alpha_s``·b + ``beta_s``, seconds for a batch of b; or a table.

    Attributes:
        alpha_s: seconds that one more request in the batch adds.
        beta_s: seconds that a batch takes whatever its size.
        cv_fraction: standard deviation of a batch's time as a share of its mean; 0 when unknown.
        table: (batch size, seconds), both ascending; empty for a line.
    """

    alpha_s: float
    beta_s: float
    cv_fraction: float = 0.0
    table: tuple[tuple[int, float], ...] = ()

    def of(self, batch_size: int) -> float:
        """Seconds that a batch takes.

        Example:
            >>> round(ServiceTime(alpha_s=0.001, beta_s=0.004).of(8), 6)
            0.012
            >>> ServiceTime(alpha_s=1.0, beta_s=0.0, table=((2, 3.0), (4, 7.0))).of(3)
            5.0
        """
        if not self.table:
            return self.alpha_s * batch_size + self.beta_s
        return self._looked_up(batch_size)

    def of_each(self, largest_batch: int) -> tuple[float, ...]:
        """ℓ(1) … ℓ(``largest_batch``), for a simulator that looks them up."""
        return tuple(self.of(size) for size in range(1, largest_batch + 1))

    def scaled(self, factor: float) -> ServiceTime:
        """The same curve, slower by ``factor``."""
        return ServiceTime(
            alpha_s=self.alpha_s * factor,
            beta_s=self.beta_s * factor,
            cv_fraction=self.cv_fraction,
            table=tuple((size, seconds * factor) for size, seconds in self.table)
            if self.table
            else (),
        )

    def rounded(self, step_fraction: float = 0.05) -> ServiceTime:
        """All its numbers rounded to steps of this share: a key under which answers can be kept.

        Example:
            >>> ServiceTime(alpha_s=0.001, beta_s=0).rounded().beta_s
            0.0
        """
        return ServiceTime.of_steps(self.steps(step_fraction, (1.0,))[0], step_fraction)

    def steps(self, step_fraction: float, factors: Iterable[float]) -> list[Steps]:
        """The curve times each factor as whole steps: ``rounded`` before it is a curve again.

        Cheap to make, as the logarithms are taken once, and to look up. A time of 0 is None.
        """
        alpha, beta, *table = (
            math.log(seconds) / step_fraction if seconds > 0 else None
            for seconds in (self.alpha_s, self.beta_s, *(s for _, s in self.table))
        )
        scatter = round(self.cv_fraction / step_fraction)
        found = []
        for factor in factors:
            up = math.log(factor) / step_fraction
            found.append(
                (
                    None if alpha is None else round(alpha + up),
                    None if beta is None else round(beta + up),
                    scatter,
                    tuple(
                        (size, None if step is None else round(step + up))
                        for (size, _), step in zip(self.table, table, strict=True)
                    )
                    if table
                    else (),
                )
            )
        return found

    @classmethod
    def of_steps(cls, steps: Steps, step_fraction: float) -> ServiceTime:
        """The curve behind ``steps``."""
        alpha, beta, cv, table = steps
        return cls(
            alpha_s=_of_step(alpha, step_fraction),
            beta_s=_of_step(beta, step_fraction),
            cv_fraction=cv * step_fraction,
            table=tuple((size, _of_step(step, step_fraction)) for size, step in table),
        )

    def _looked_up(self, batch_size: int) -> float:
        """From the table: interpolated inside, by the line's slope outside."""
        index = bisect_left(self.table, (batch_size, -math.inf))
        if index == len(self.table):
            size, seconds = self.table[-1]
            return seconds + self.alpha_s * (batch_size - size)
        size, seconds = self.table[index]
        if size == batch_size:
            return seconds
        if index == 0:  # never below the line's own share of the smallest size
            return max(
                seconds - self.alpha_s * (size - batch_size), seconds * batch_size / max(size, 1)
            )
        before, before_s = self.table[index - 1]
        return before_s + (seconds - before_s) * (batch_size - before) / (size - before)


HALF_FIXED = ServiceTime(alpha_s=0.5, beta_s=0.5)
"""The shape of the prior when there is no better one: half of ℓ(1) grows with the batch."""


class Point(NamedTuple):
    """One batch size: how many batches were seen, and their mean time."""

    size: int
    mean_s: float
    batches: float


def trust(count: float) -> float:
    """How much the mean of so many batches weighs.

    Example:
        >>> [round(trust(n), 1) for n in (1, 10, 100, 10_000)]
        [0.2, 6.5, 48.1, 99.0]
    """
    return count * count / (count + THIN) / (1.0 + count / SATURATION)


def fit(
    evidence: Mapping[int, tuple[float, float]], *, prior: ServiceTime = HALF_FIXED
) -> ServiceTime | None:
    """The curve behind (batches, seconds of all of them) by batch size; None without a batch."""
    points = [Point(b, s / n, n) for b, (n, s) in sorted(evidence.items()) if n > 0]
    return curve_through(points, prior=prior)


def curve_through(
    points: Sequence[Point], *, prior: ServiceTime = HALF_FIXED, cv_fraction: float = 0.0
) -> ServiceTime | None:
    """The line, or the table where that is clearly nearer to the points (ascending by size).

    Args:
        points: what was seen; every mean and count above 0.
        prior: its shape alone matters.
        cv_fraction: of one batch's time, as far as it is known.
    """
    line = line_through(points, prior=prior)
    if line is None:
        return None
    if cv_fraction:
        line = ServiceTime(
            alpha_s=line.alpha_s, beta_s=line.beta_s, cv_fraction=cv_fraction, table=line.table
        )
    strong = 0
    weight = missed = 0.0
    for size, mean_s, batches in points:
        if batches >= TABLE_BATCHES:
            weighs = trust(batches)
            strong += 1
            weight += weighs
            missed += weighs * (mean_s / line.of(size) - 1.0) ** 2
    noise = max(cv_fraction, LEAST_NOISE) ** 2
    chance = noise * (strong + 3.0 * math.sqrt(2.0 * strong))
    if strong < TABLE_SIZES or missed <= max(chance, TABLE_GAIN * noise * weight):
        return line  # not even a perfect table would pay
    table, left = _table([p for p in points if p.batches >= TABLE_BATCHES], line)
    saved = missed - left
    if saved <= max(chance, TABLE_GAIN * (missed + noise * weight)):
        return line
    return replace(line, table=table)


def _table(
    points: Sequence[Point], line: ServiceTime
) -> tuple[tuple[tuple[int, float], ...], float]:
    """The rising table nearest to the points, and the error it leaves, relative to the line."""
    weights = [trust(p.batches) / line.of(p.size) ** 2 for p in points]
    rising = isotonic([p.mean_s for p in points], weights)
    rows = list(zip(points, rising, weights, strict=True))
    left = sum(w * (p.mean_s - seconds) ** 2 for p, seconds, w in rows)
    return tuple((p.size, seconds) for p, seconds, _ in rows), left


def line_through(points: Sequence[Point], *, prior: ServiceTime = HALF_FIXED) -> ServiceTime | None:
    """α ≥ 0 and β ≥ 0 by weighted least squares with the prior; None without points."""
    if not points:
        return None
    trusted = [(float(b), s, trust(n), prior.of(b)) for b, s, n in points]
    total = level = 0.0
    for _, seconds, weighs, shape in trusted:
        total += weighs
        level += weighs * seconds / shape
    level /= total
    trusted += [(float(b), level * prior.of(b), PRIOR_WEIGHT, prior.of(b)) for b in PRIOR_SIZES]
    sum_w = sum_b = sum_s = sum_bb = sum_bs = 0.0
    for b, seconds, weighs, shape in trusted:
        # The level comes from the prior: one batch that was very fast must not weigh the most.
        w = weighs / (level * shape) ** 2
        sum_w += w
        sum_b += w * b
        sum_s += w * seconds
        sum_bb += w * b * b
        sum_bs += w * b * seconds
    alpha_s = (sum_bs - sum_b * sum_s / sum_w) / (sum_bb - sum_b * sum_b / sum_w)
    if alpha_s <= 0:
        return ServiceTime(alpha_s=0.0, beta_s=sum_s / sum_w)
    beta_s = (sum_s - alpha_s * sum_b) / sum_w
    if beta_s < 0:  # the best line through the origin
        return ServiceTime(alpha_s=sum_bs / sum_bb, beta_s=0.0)
    return ServiceTime(alpha_s=alpha_s, beta_s=beta_s)


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, in weighted least squares; weights above 0.

    Pool adjacent violators: Barlow et al., *Statistical Inference under Order Restrictions*, 1972.

    Example:
        >>> isotonic([1.0, 3.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0])
        [1.0, 2.5, 2.5, 4.0]
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            mean, heavy, length = pools.pop()
            both = heavy + pool[1]
            mean += (pool[0] - mean) * pool[1] / both
            pool = (mean, both, length + pool[2])
        pools.append(pool)
    return [mean for mean, _, length in pools for _ in range(length)]


def _of_step(step: int | None, step_fraction: float) -> float:
    """That power of e^``step_fraction``; 0 for None."""
    return 0.0 if step is None else math.exp(step * step_fraction)
