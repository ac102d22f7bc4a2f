"""Calibration and evaluation batches, checked against the recipe; example inputs of any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError
from export.recipe import Recipe, Tensor
from export.source import Source
from export.steps import Batch, resized

Arrays = dict[str, NDArray[Any]]


class RecipeData:
    """The recipe's data, each part made once, when it is first asked for."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        """Keep what is needed; run nothing."""
        self._recipe = recipe
        self._source = source
        self._made: dict[str, list[Arrays]] = {}
        self._dims = {tensor.name: tensor.dims for tensor in recipe.model.inputs}

    def calibration(self) -> list[Arrays]:
        """The calibration batches."""
        return self._batches("calibration", self._recipe.data.calibration)

    def evaluation(self) -> list[Arrays]:
        """The evaluation batches."""
        return self._batches("evaluation", self._recipe.data.evaluation)

    def examples(self, sizes: Mapping[str, int]) -> Arrays:
        """Inputs of exactly these sizes: real rows, repeated or cut, where there is data.

        Args:
            sizes: ``batch`` and each of the recipe's axes → size.
        """
        data = self._recipe.data
        if data.evaluation is not None:
            base = self.evaluation()[0]
        elif data.calibration is not None:
            base = self.calibration()[0]
        else:
            base = self._synthetic()
        return resized(base, self._dims, sizes)

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

    def _batches(self, part: str, reference: str | None) -> list[Arrays]:
        """The batches that one of the recipe's data functions gives, checked."""
        if reference is None:
            raise ConfigError(
                f"data.{part}: missing, but needed.", hint=f"Name a function in data.{part}."
            )
        if part not in self._made:
            key = f"data.{part}"
            given = self._source.call(reference, key=key, seed=self._recipe.seed)
            self._made[part] = [
                self._checked(batch, f"{key}: {reference}, batch {index}")
                for index, batch in enumerate(_iterated(given, f"{key}: {reference}"))
            ]
            if not self._made.get(part):
                raise ConfigError(f"{key}: {reference} gave no batches, at least 1 is needed.")
        return self._made[part]

    def _checked(self, batch: Any, where: str) -> Arrays:
        """The batch with exactly the recipe's inputs, of their dtypes and dims."""
        if not isinstance(batch, Mapping):
            raise ConfigError(
                f"{where} is a {type(batch).__name__}, must be a mapping of input name to array."
            )
        wanted = [tensor.name for tensor in self._recipe.model.inputs]
        if set(batch) != set(wanted):
            raise ConfigError(
                f"{where} has the keys {', '.join(sorted(map(str, batch)))}, "
                f"must have {', '.join(wanted)}."
            )
        arrays = {
            tensor.name: _checked_array(np.asarray(batch[tensor.name]), tensor, where)
            for tensor in self._recipe.model.inputs
        }
        if len({len(array) for array in arrays.values()}) > 1:
            raise ConfigError(f"{where}: inputs differ in their number of rows, must be equal.")
        return arrays


def _iterated(given: Any, where: str) -> Iterable[Batch]:
    """What the function gave, if it can be looped over."""
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{where} gave a {type(given).__name__}, must give a list of batches.",
            hint="Wrap a single batch in a list.",
        )
    return given


def _checked_array(array: NDArray[Any], tensor: Tensor, where: str) -> NDArray[Any]:
    """The array, if it is what the recipe says of this input."""
    if array.dtype != np.dtype(tensor.dtype):
        raise ConfigError(f"{where}: {tensor.name} is {array.dtype}, must be {tensor.dtype}.")
    fits = array.ndim == 1 + len(tensor.dims) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(tensor.dims, array.shape[1:], strict=True)
    )
    if not fits or array.shape[0] == 0:
        raise ConfigError(
            f"{where}: {tensor.name} has shape {list(array.shape)}, "
            f"must be [batch, {', '.join(map(str, tensor.dims))}] with at least 1 row."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ConfigError(f"{where}: {tensor.name} holds NaN or infinity.")
    return array
