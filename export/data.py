"""The recipe's data, checked against the recipe; example inputs of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConchError, ConfigError
from export.recipe import Recipe, Tensor
from export.samples import Leaks, leaks_between, row_count, sample_ids
from export.source import Source
from export.steps import Batch, Part, resized

Arrays = dict[str, NDArray[Any]]

TARGET = "target"
"""The key of the labels in a training batch."""

MIN_CALIBRATION_ROWS = 16
"""Of rows drawn alike, the next one leaves the range of n earlier ones with probability
2 / (n + 1): 12 % at 16, 2 % at 100. Fewer tell next to nothing of the ranges."""

__all__ = ["MIN_CALIBRATION_ROWS", "TARGET", "RecipeData", "equal_shapes", "sample_ids"]


class RecipeData:
    """The recipe's data, each part made once, when it is first asked for."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        """Keep what is needed; run nothing."""
        self._recipe = recipe
        self._source = source
        self._made: dict[Part, list[Arrays]] = {}
        self._dims = {tensor.name: tensor.dims for tensor in recipe.model.inputs}

    def calibration(self) -> list[Arrays]:
        """The calibration batches.

        Raises:
            ConfigError: when they do not fit the recipe, or are too few to take ranges from.
        """
        batches = self._batches(Part.CALIBRATION)
        rows = row_count(batches)
        if rows < MIN_CALIBRATION_ROWS:
            raise ConfigError(
                f"data.calibration: {self._recipe.data.calibration} gave {rows} rows, at least "
                f"{MIN_CALIBRATION_ROWS} are needed.",
                hint="A few hundred real inputs, as varied as in service, make good ranges.",
            )
        return batches

    def evaluation(self) -> list[Arrays]:
        """The evaluation batches.

        Raises:
            ConfigError: when they do not fit the recipe.
        """
        return self._batches(Part.EVALUATION)

    def training(self) -> list[Arrays]:
        """The training batches; labels, where there are any, under the key ``target``.

        Raises:
            ConfigError: when they do not fit the recipe, or only some have labels.
        """
        return self._batches(Part.TRAINING)

    def examples(self, sizes: Mapping[str, int]) -> Arrays:
        """Inputs of exactly these sizes: real rows, repeated or cut, where there is data.

        Args:
            sizes: ``batch`` and each of the recipe's axes → size.
        """
        data = self._recipe.data
        for part in (Part.EVALUATION, Part.CALIBRATION, Part.TRAINING):
            if getattr(data, part) is not None:
                return resized(self._batches(part)[0], self._dims, sizes)
        return resized(self._synthetic(), self._dims, sizes)

    def leaks(self) -> Leaks:
        """Evaluation rows that are also in the other parts of the data, or there twice."""
        data = self._recipe.data
        if data.evaluation is None:
            return Leaks()
        found = {
            part: self._batches(part)
            for part in (Part.CALIBRATION, Part.TRAINING)
            if getattr(data, part) is not None
        }
        return leaks_between(
            self.evaluation(),
            calibration=found.get(Part.CALIBRATION, []),
            training=found.get(Part.TRAINING, []),
            names=list(self._dims),
        )

    def _synthetic(self) -> Arrays:
        """Four rows of seeded noise (floats) or of zeros and ones (the rest)."""
        random = np.random.default_rng(self._recipe.seed)
        arrays: Arrays = {}
        for tensor in self._recipe.model.inputs:
            shape = (4, *self._recipe.example_dims(tensor))
            dtype = np.dtype(tensor.dtype)
            noise = (
                random.standard_normal(shape)
                if dtype.kind == "f"
                else random.integers(2, size=shape)
            )
            arrays[tensor.name] = noise.astype(dtype)
        return arrays

    def _batches(self, part: Part) -> list[Arrays]:
        """The batches that one of the recipe's data functions gives, checked."""
        key = f"data.{part}"
        reference = getattr(self._recipe.data, part)
        if reference is None:
            raise ConfigError(f"{key}: missing, but needed.", hint=f"Name a function in {key}.")
        if part not in self._made:
            given = self._source.call(reference, key=key, seed=self._recipe.seed)
            where = f"{key}: {reference}"
            batches = [
                self._checked(batch, f"{where}, batch {index}", labelled=part is Part.TRAINING)
                for index, batch in enumerate(_iterated(given, where))
            ]
            if not batches:
                raise ConfigError(f"{where} gave no batches, at least 1 is needed.")
            if len({TARGET in batch for batch in batches}) > 1:
                raise ConfigError(
                    f"{where}: some batches have the key {TARGET} and some not.",
                    hint="Give labels for all rows, or for none.",
                )
            self._made[part] = batches
        return self._made[part]

    def _checked(self, batch: Any, where: str, *, labelled: bool) -> Arrays:
        """The batch with exactly the recipe's inputs, of their dtypes and dims, and labels."""
        if not isinstance(batch, Mapping):
            raise ConfigError(
                f"{where} is a {type(batch).__name__}, must be a mapping of input name to array."
            )
        wanted = [tensor.name for tensor in self._recipe.model.inputs]
        allowed = {TARGET} if labelled and TARGET not in wanted else set()
        if set(batch) - allowed != set(wanted):
            raise ConfigError(
                f"{where} has the keys {', '.join(sorted(map(str, batch)))}, "
                f"must have {', '.join(wanted)}{f' and may have {TARGET}' if allowed else ''}."
            )
        arrays = {
            tensor.name: _checked_array(np.asarray(batch[tensor.name]), tensor, where)
            for tensor in self._recipe.model.inputs
        }
        if allowed & set(batch):
            arrays[TARGET] = _checked_target(np.asarray(batch[TARGET]), where)
        if len({len(array) for array in arrays.values()}) > 1:
            rows = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise ConfigError(
                f"{where}: arrays differ in their number of rows ({rows}), must be equal."
            )
        return arrays


def equal_shapes(batches: Sequence[Batch], *, purpose: str) -> ConfigError | None:
    """The error for batches that differ in shape, for what needs all of one shape; else None.

    The batch axis does not count.

    Args:
        batches: input name → array ``[batch, ...]``.
        purpose: what needs it, for the message.
    """
    for name in batches[0] if batches else ():
        shapes = sorted({batch[name].shape[1:] for batch in batches})
        if len(shapes) > 1:
            return ConfigError(
                f"data.calibration: {name} comes in {len(shapes)} shapes, from {list(shapes[0])} "
                f"to {list(shapes[-1])}; {purpose} needs all of one shape.",
                hint="Pad every batch to one length, or choose the minmax method.",
            )
    return None


def _iterated(given: Any, where: str) -> Iterator[Any]:
    """What the function gave, if it can be looped over; a generator's code runs only now."""
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{where} gave a {type(given).__name__}, must give a list of batches.",
            hint="Wrap a single batch in a list.",
        )
    try:
        yield from given
    except ConchError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{where} raised {type(error).__name__}: {error}.",
            hint="Mend the function; --debug shows its traceback.",
        ) from error


def _checked_array(array: NDArray[Any], tensor: Tensor, where: str) -> NDArray[Any]:
    """The array, if it is what the recipe says of this input."""
    if array.dtype != np.dtype(tensor.dtype):
        raise ConfigError(
            f"{where}: {tensor.name} is {array.dtype}, must be {tensor.dtype}.",
            hint=f"Convert it with .astype({tensor.dtype!r}), or correct dtype in the recipe.",
        )
    fits = array.ndim == 1 + len(tensor.dims) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(tensor.dims, array.shape[1:], strict=True)
    )
    if not fits or array.shape[0] == 0:
        raise ConfigError(
            f"{where}: {tensor.name} has shape {list(array.shape)}, "
            f"must be [batch, {', '.join(map(str, tensor.dims))}] with at least 1 row."
        )
    _check_finite(array, f"{where}: {tensor.name}")
    return array


def _checked_target(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Labels of any numeric dtype, one entry a row."""
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ConfigError(
            f"{where}: {TARGET} is {array.dtype} of shape {list(array.shape)}, "
            "must be numbers, one entry (or one array) a row."
        )
    _check_finite(array, f"{where}: {TARGET}")
    return array


def _check_finite(array: NDArray[Any], where: str) -> None:
    """Refuse NaN and infinity, and say in which rows they are."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    raise ConfigError(
        f"{where} holds NaN or infinity in {len(bad)} of {len(array)} rows, first in row {bad[0]}.",
        hint="Leave such rows out, or mend how they are read.",
    )
