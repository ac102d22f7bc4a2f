"""The task metric of a recipe: one score, and how sure it is.

A metric function gives

- one number (more is better); there is then no interval, or
- one score a sample, an array ``[samples]``: the mean is the metric. Entry i must be the same
  sample at every call, e.g. the same image, or an episode from the same start; or
- one number, and takes a keyword ``sample``: indices ``[rows]`` into the evaluation rows, drawn
  with replacement, or None for all of them. For metrics that are no mean, such as a rank
  correlation.

What an interval means: ``export/bootstrap.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConchError, ConfigError
from export import bootstrap
from export.bootstrap import Indices, Interval
from export.source import Source, seed_everything

Outputs = Sequence[Mapping[str, NDArray[Any]]]
Predict = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

KEY = "gates.task.metric"
STATISTIC_RESAMPLES = 1000
"""Fewer than for means: each calls the user's function twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What a metric function found.

    Attributes:
        value: the score; more is better.
        per_sample: the score of each sample, whose mean is ``value``; None when unknown.
        resample: the score of the rows at some indices; None when the function cannot tell.
        row_count: evaluation rows that indices of ``resample`` point into.
    """

    value: float
    per_sample: tuple[float, ...] | None = None
    resample: Callable[[Indices], float] | None = None
    row_count: int = 0

    def as_facts(self) -> dict[str, Any]:
        """The result as JSON values, without ``resample``."""
        return {"value": self.value, "per_sample": self.per_sample and list(self.per_sample)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The result that ``as_facts`` gave."""
        scores = facts["per_sample"]
        return cls(value=facts["value"], per_sample=tuple(scores) if scores else None)


def score(source: Source, reference: str, outputs: Outputs, *, seed: int) -> TaskResult:
    """The score of outputs, one mapping for each evaluation batch.

    Raises:
        ConfigError: when the function cannot be found, raises, or gives no finite number.
    """
    function = source.function(reference, key=KEY)
    result = _result(source.call(reference, outputs, key=KEY, seed=seed), reference)
    if result.per_sample is not None or "sample" not in inspect.signature(function).parameters:
        return result

    def resample(sample: Indices) -> float:
        try:
            return float(function(outputs, sample=sample))
        except ConchError:
            raise
        except Exception as error:
            raise _resampling_failed(reference, f"{type(error).__name__}: {error}") from error

    seed_everything(seed)
    return TaskResult(value=result.value, resample=resample, row_count=_row_count(outputs))


def play(source: Source, reference: str, predict: Predict, *, seed: int) -> TaskResult:
    """The score of a model that the metric asks, batch by batch, e.g. to act in a simulation.

    Raises:
        ConfigError: when the function cannot be found, raises, or gives no finite number.
    """
    return _result(source.call(reference, predict, key=KEY, seed=seed), reference)


def interval(variant: TaskResult, original: TaskResult, *, seed: int) -> Interval | None:
    """The 95 % confidence interval of variant − original; below zero means worse.

    None when the metric gives one number only, or too few samples.

    Raises:
        ConfigError: when the scores of the two cannot be paired, or resampling fails.
    """
    if variant.per_sample is not None and original.per_sample is not None:
        if len(variant.per_sample) != len(original.per_sample):
            raise ConfigError(
                f"{KEY}: gave {len(variant.per_sample)} scores for the variant and "
                f"{len(original.per_sample)} for the original, must give one for each sample.",
                hint="Score the same samples, in the same order, at every call.",
            )
        if len(variant.per_sample) < 2:
            return None
        return bootstrap.paired_difference(variant.per_sample, original.per_sample, seed=seed)
    ours, theirs = variant.resample, original.resample
    if ours is None or theirs is None or variant.row_count < 2:
        return None
    try:
        return bootstrap.statistic(
            lambda sample: ours(sample) - theirs(sample),
            variant.row_count,
            resamples=STATISTIC_RESAMPLES,
            seed=seed,
        )
    except ValueError as error:
        raise _resampling_failed("the function", str(error)) from error


def _result(given: Any, reference: str) -> TaskResult:
    """What the function gave, as a score."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise _no_score(reference, repr(given)) from None
    if values.ndim > 1 or values.size == 0:
        raise _no_score(reference, f"an array of shape {list(values.shape)}")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise _no_score(
            reference, f"{bad} scores of NaN or infinity" if values.ndim else repr(given)
        )
    per_sample = tuple(values.tolist()) if values.ndim == 1 else None
    return TaskResult(value=float(values.mean()), per_sample=per_sample)


def _row_count(outputs: Outputs) -> int:
    """Rows of all batches together."""
    return sum(len(next(iter(batch.values()))) for batch in outputs)


def _no_score(reference: str, seen: str) -> ConfigError:
    """The error for a function that gave no score."""
    return ConfigError(
        f"{KEY}: {reference} gave {seen[:200]}, must give a finite number, or an array [samples].",
        hint="Return one float, or one score a sample; more is better.",
    )


def _resampling_failed(reference: str, why: str) -> ConfigError:
    """The error for a function that works on all rows, but not on some."""
    return ConfigError(
        f"{KEY}: {reference} fails on resampled rows ({why}).",
        hint="`sample` holds indices of rows, some of them more than once; leave the keyword out "
        "to go without a confidence interval.",
    )
