"""The identity of single rows: ids for the manifest, and rows that two parts of the data share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.steps.base import Batch

_ID_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """Rows that make an evaluation look better, or surer, than it is.

    Attributes:
        in_calibration: evaluation rows that are calibration rows, too.
        in_training: evaluation rows that are training rows, too.
        repeated: evaluation rows that equal an earlier one.
        evaluation: all evaluation rows.
    """

    in_calibration: int = 0
    in_training: int = 0
    repeated: int = 0
    evaluation: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a report should say; empty when there is nothing to tell."""
        total = self.evaluation
        told = [
            (self.in_calibration, "are also in data.calibration: ranges fit them too well"),
            (self.in_training, "are also in data.training: the scores flatter the model"),
            (self.repeated, "repeat an earlier one: intervals come out too narrow"),
        ]
        return tuple(f"{count} of {total} evaluation rows {what}" for count, what in told if count)


def row_count(batches: Sequence[Batch]) -> int:
    """Rows of all batches together."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def sample_ids(batches: Sequence[Batch], *, names: Sequence[str] | None = None) -> list[str]:
    """One id for each row: the first 16 hex digits of a SHA-256 of its content.

    Padding does not count (zeros at the end of an axis), so the same text has the same id in
    batches of different lengths.

    Args:
        batches: input name → array ``[batch, ...]``.
        names: the inputs that count; all by default.
    """
    return [
        _id([(name, np.asarray(batch[name])[row]) for name in sorted(names or batch)])
        for batch in batches
        for row in range(len(next(iter(batch.values()))))
    ]


def leaks_between(
    evaluation: Sequence[Batch],
    *,
    calibration: Sequence[Batch],
    training: Sequence[Batch],
    names: Sequence[str],
) -> Leaks:
    """How many evaluation rows are in the other parts, or there twice.

    Args:
        evaluation: the rows that are asked about.
        calibration: batches; may be empty.
        training: batches; may be empty.
        names: the inputs; labels do not count.
    """
    own = sample_ids(evaluation, names=names)
    calibrated = set(sample_ids(calibration, names=names))
    trained = set(sample_ids(training, names=names))
    return Leaks(
        in_calibration=sum(one in calibrated for one in own),
        in_training=sum(one in trained for one in own),
        repeated=len(own) - len(set(own)),
        evaluation=len(own),
    )


def _id(arrays: Sequence[tuple[str, NDArray[Any]]]) -> str:
    """The id of one row."""
    digest = hashlib.sha256()
    for name, array in arrays:
        kept = _without_padding(array)
        digest.update(f"{name} {array.dtype} {kept.shape}\n".encode())
        digest.update(np.ascontiguousarray(kept).tobytes())
    return digest.hexdigest()[:_ID_DIGITS]


def _without_padding(array: NDArray[Any]) -> NDArray[Any]:
    """The array up to the last entry of each axis that is not all zero."""
    if array.ndim == 0:
        return array
    used = np.nonzero(array)
    if not len(used[0]):
        return array[tuple(slice(0) for _ in range(array.ndim))]
    return array[tuple(slice(int(axis.max()) + 1) for axis in used)]
