"""Calibration batches in the forms that quantizers take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.steps.base import Batch

Arrays = dict[str, NDArray[Any]]


def sample_count(batches: Sequence[Batch]) -> int:
    """Rows in all batches."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def of_one_shape(batches: Sequence[Arrays], *, purpose: str) -> list[Arrays]:
    """The batches, without a last one of fewer rows: histograms need all of one shape.

    Args:
        batches: the calibration batches.
        purpose: what needs it, for the message.

    Raises:
        ConfigError: when rows differ in shape.
    """
    from export.data import equal_shapes

    if (error := equal_shapes(batches, purpose=purpose)) is not None:
        raise error
    rows = sample_count(batches[:1])
    return [batch for batch in batches if sample_count([batch]) == rows]


def joined(batches: Sequence[Batch]) -> dict[str, NDArray[Any]]:
    """All batches as one, ``[samples, ...]``."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


class Reader:
    """Calibration batches in the form that ONNX Runtime asks for."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        """Start at the first batch."""
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)
