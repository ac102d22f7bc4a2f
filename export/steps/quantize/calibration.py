"""Calibration batches: whether they are enough and alike, and in the forms that quantizers take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError
from export.steps.base import Batch


def sample_count(batches: Sequence[Batch]) -> int:
    """Rows in all batches."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def check_enough(batches: Sequence[Batch], least: int) -> None:
    """Refuse a sample that says little about the ranges of activations.

    Raises:
        ConfigError: when there are fewer than ``least`` samples.
    """
    if (count := sample_count(batches)) < least:
        raise ConfigError(
            f"data.calibration: {count} samples, at least {least} are needed.",
            hint="Give more of them (100 to 500 are usual), or lower quantize.min_samples.",
        )


def check_one_shape(batches: Sequence[Batch], why: str) -> None:
    """Refuse batches of different shapes, where the quantizer would fail deep inside.

    Args:
        batches: the calibration batches.
        why: what needs one shape, e.g. ``quantize.calibration: entropy``.

    Raises:
        ConfigError: naming two batches that differ.
    """
    first = {name: list(array.shape) for name, array in batches[0].items()}
    for index, batch in enumerate(batches):
        for name, array in batch.items():
            if list(array.shape) != first[name]:
                raise ConfigError(
                    f"{why} needs calibration batches of one shape, but {name} is {first[name]} "
                    f"in batch 0 and {list(array.shape)} in batch {index}.",
                    hint="Pad to one length and leave out a last, smaller batch; or use minmax.",
                )


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
