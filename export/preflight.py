"""What must hold of the original before any work is spent on it: it can be batched and served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError, ParityError
from export.recipe import Recipe, Tensor
from export.source import call
from export.steps.to_onnx import check_sizes, no_batch_axis

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[Any]]
Examples = Callable[[Mapping[str, int]], Arrays]


def check(module: torch.nn.Module, recipe: Recipe, examples: Examples) -> None:
    """Run the original at every size that is checked later, and compare it with the recipe.

    Raises:
        ConfigError: when it has no batch axis, rows of a batch influence each other, or outputs
            are not what the recipe says.
        ParityError: when it gives NaN on real inputs: no variant could be compared with it.
    """
    for sizes in check_sizes(recipe):
        outputs = call(module, examples(sizes), recipe.model)
        for tensor in recipe.model.outputs:
            _check_output(outputs[tensor.name], tensor, sizes, recipe)
    _check_rows_independent(module, recipe, examples)


def _check_output(
    value: NDArray[Any], tensor: Tensor, sizes: Mapping[str, int], recipe: Recipe
) -> None:
    """One output against its description."""
    model = recipe.model.name
    expected = tuple(sizes[d] if isinstance(d, str) else d for d in ("batch", *tensor.dims))
    if not value.shape or value.shape[0] != expected[0]:
        raise no_batch_axis(
            model,
            f"output {tensor.name} has shape {list(value.shape)} for a batch of {expected[0]}",
        )
    if value.shape != expected:
        raise ConfigError(
            f"model {model}: output {tensor.name} has dims {list(value.shape[1:])}, "
            f"the recipe says {list(tensor.dims)} ({list(expected[1:])} here).",
            hint="Correct model.outputs; the batch axis is not written down.",
        )
    if value.dtype != np.dtype(tensor.dtype):
        raise ConfigError(
            f"model {model}: output {tensor.name} is {value.dtype}, "
            f"the recipe says {tensor.dtype}.",
            hint="Correct model.outputs.",
        )
    if not np.isfinite(value.astype(np.float64)).all():
        raise ParityError(
            f"model {model}: the original's output {tensor.name} holds NaN or infinity.",
            hint="Check the weights and the evaluation data; nothing can be compared with NaN.",
        )


def _check_rows_independent(module: torch.nn.Module, recipe: Recipe, examples: Examples) -> None:
    """A server joins requests of strangers into one batch: they must not change each other."""
    sizes = {"batch": 2, **{name: axis.example for name, axis in recipe.model.axes.items()}}
    both = examples(sizes)
    together = call(module, both, recipe.model)
    for row in range(2):
        alone = call(
            module, {name: array[row : row + 1] for name, array in both.items()}, recipe.model
        )
        for name, value in alone.items():
            if not np.allclose(value[0], together[name][row], atol=1e-3, rtol=1e-2):
                raise ConfigError(
                    f"model {recipe.model.name}: output {name} of one sample changes with the "
                    "other samples of its batch; dynamic batching would mix up requests.",
                    hint="Look for statistics over the batch axis, dropout, or BatchNorm that "
                    "eval() does not reach.",
                )
