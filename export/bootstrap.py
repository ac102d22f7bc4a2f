"""Confidence intervals by the bootstrap. Pure: numpy only.

The samples are drawn anew, with replacement, as often as there are samples; the statistic of each
such resample shows how much it would vary with other samples of the same kind. The interval of
level 0.95 reaches from the 2.5th to the 97.5th percentile: made so again and again on new data, 95
of 100 such intervals would hold the true value. It speaks of chance in the samples only, not of a
data set that is unlike what the server will see.

A variant and the original are scored on the *same* samples, so they are resampled together
(paired): what both find hard cancels out, and the interval of the difference is far narrower than
that of either score.

Limits: samples must be independent of one another (the frames of one video are not), and some 30
at least, or the interval is too narrow. Where every sample agrees the interval is a point, which
claims too much: with n samples and no difference seen, up to 3 / n of all samples may still differ
(J. Hanley, A. Lippman-Hand, "If nothing goes wrong, is everything all right?", 1983).

Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979; the percentile interval:
B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95

_DRAWS_AT_ONCE = 2_000_000
"""Indices held in memory at a time: 16 MB."""

_MOST_UNDEFINED = 0.05
"""Fraction of resamples on which a statistic may be undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval, both ends inclusive.

    Attributes:
        low, high: its ends, in the unit of the statistic.
        level: how often such intervals hold the true value, 0 to 1.
    """

    low: float
    high: float
    level: float = LEVEL


def mean_interval(
    values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int
) -> Interval:
    """The interval of the mean of samples ``[n]``.

    Raises:
        ValueError: when there are fewer than 2 values, or one is not finite.

    Example:
        >>> mean_interval([0.0, 1.0] * 50, seed=0)  # 0.5 +- 1.96 * 0.5 / sqrt(100)
        Interval(low=0.4, high=0.6, level=0.95)
    """
    samples = _samples(values)
    return _percentiles(_resampled_means(samples, resamples, seed), level)


def paired_difference(
    variant: ArrayLike,
    original: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int,
) -> Interval:
    """The interval of mean(variant) − mean(original); entry i of both is the same sample.

    Raises:
        ValueError: when the two differ in length, there are fewer than 2 values, or one is not
            finite.
    """
    ours, theirs = _samples(variant), _samples(original)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} scores against {len(theirs)}: pairs need equal numbers")
    return mean_interval(ours - theirs, level=level, resamples=resamples, seed=seed)


def statistic(
    function: Callable[[Indices], float],
    sample_count: int,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int,
) -> Interval:
    """The interval of any statistic of a resample.

    Args:
        function: the statistic of the samples at these indices ``[sample_count]``, some of which
            occur more than once. It may give NaN for a few resamples on which it is undefined.
        sample_count: how many samples there are.
        level: of the interval, 0 to 1.
        resamples: how often to draw.
        seed: of the draws; equal seeds draw equal indices.

    Raises:
        ValueError: when there are fewer than 2 samples, or more than 5 % of the values are not
            finite.
    """
    if sample_count < 2:
        raise ValueError(f"{sample_count} samples, at least 2 are needed")
    random = np.random.default_rng(seed)
    values = np.array(
        [
            function(random.integers(sample_count, size=sample_count, dtype=np.intp))
            for _ in range(resamples)
        ],
        dtype=np.float64,
    )
    defined = values[np.isfinite(values)]
    if len(defined) < (1 - _MOST_UNDEFINED) * resamples:
        raise ValueError(f"{resamples - len(defined)} of {resamples} resamples gave no number")
    return _percentiles(defined, level)


def _resampled_means(samples: Floats, resamples: int, seed: int) -> Floats:
    """The mean of each resample ``[resamples]``."""
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(samples))
    parts = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        indices = random.integers(len(samples), size=(count, len(samples)))
        parts.append(samples[indices].mean(axis=1))
    return np.concatenate(parts)


def _percentiles(values: Floats, level: float) -> Interval:
    """The middle ``level`` of the values."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}, must lie between 0 and 1")
    tail = (1 - level) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(low=float(low), high=float(high), level=level)


def _samples(values: ArrayLike) -> Floats:
    """The values as float64 ``[n]``, n at least 2, all finite."""
    samples = np.asarray(values, dtype=np.float64)
    if samples.ndim != 1 or len(samples) < 2:
        raise ValueError(f"scores of shape {list(samples.shape)}, at least 2 in one row are needed")
    if not np.isfinite(samples).all():
        raise ValueError("a score is NaN or infinite")
    return samples
