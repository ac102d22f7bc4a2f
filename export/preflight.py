"""What must hold of the original before any work is spent on it: it can be batched and served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError, ParityError
from export import preflight_onnx
from export.original import OnnxOriginal
from export.recipe import Recipe, Tensor
from export.steps.base import Original
from export.steps.to_onnx import check_sizes, no_batch_axis

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[Any]]
Examples = Callable[[Mapping[str, int]], Arrays]

_OTHER_INTEGER = {"int32": "int64", "int64": "int32"}


def check(original: Original, recipe: Recipe, examples: Examples) -> None:
    """Run the original at every size that is checked later, and compare it with the recipe.

    Raises:
        ConfigError: when it has no batch axis, takes another dtype, rows of a batch influence each
            other, or outputs are not what the recipe says.
        ParityError: when it gives NaN on real inputs: no variant could be compared with it.
    """
    for sizes in check_sizes(recipe):
        outputs = _run(original, examples(sizes), recipe)
        for tensor in recipe.model.outputs:
            _check_output(outputs[tensor.name], tensor, sizes, recipe)
    _check_rows_independent(original, recipe, examples)


def summary(original: Original, recipe: Recipe) -> dict[str, Any]:
    """The original in figures, as JSON values.

    ``source``, ``inputs`` and ``outputs`` (name, dtype, dims), ``parameters`` (count),
    ``parameter_bytes`` and ``parameter_dtypes``; of an ONNX file also opset, IR and operators.
    """
    found: dict[str, Any] = {"source": recipe.model.kind}
    if isinstance(original, OnnxOriginal):
        return found | preflight_onnx.summary(original.path)
    module: torch.nn.Module = original.module
    weights = list(module.parameters())
    return found | {
        "class": type(module).__name__,
        "inputs": [_described(tensor) for tensor in recipe.model.inputs],
        "outputs": [_described(tensor) for tensor in recipe.model.outputs],
        "parameters": sum(weight.numel() for weight in weights),
        "parameter_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "parameter_dtypes": dict(
            Counter(str(weight.dtype).removeprefix("torch.") for weight in weights)
        ),
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    """An input or output as the recipe says it."""
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": ["batch", *tensor.dims]}


def _run(original: Original, batch: Arrays, recipe: Recipe) -> Arrays:
    """The outputs; when the original wants integers of the other width, the error says so."""
    try:
        return original.run(batch)
    except ConfigError as error:
        for tensor in recipe.model.inputs:
            other = _OTHER_INTEGER.get(tensor.dtype)
            if other and _runs(original, {**batch, tensor.name: batch[tensor.name].astype(other)}):
                raise ConfigError(
                    f"model {recipe.model.name}: input {tensor.name} is {tensor.dtype} in the "
                    f"recipe, but forward takes {other}.",
                    hint=f"Write dtype: {other} in model.inputs, and give such data.",
                ) from error
        raise


def _runs(original: Original, batch: Arrays) -> bool:
    """Whether the original takes this batch."""
    try:
        original.run(batch)
    except ConfigError:
        return False
    return True


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


def _check_rows_independent(original: Original, recipe: Recipe, examples: Examples) -> None:
    """A server joins requests of strangers into one batch: they must not change each other."""
    sizes = {"batch": 2, **{name: axis.example for name, axis in recipe.model.axes.items()}}
    both = examples(sizes)
    together = original.run(both)
    for row in range(2):
        alone = original.run({name: array[row : row + 1] for name, array in both.items()})
        for name, value in alone.items():
            if not np.allclose(value[0], together[name][row], atol=1e-3, rtol=1e-2):
                raise ConfigError(
                    f"model {recipe.model.name}: output {name} of one sample changes with the "
                    "other samples of its batch; dynamic batching would mix up requests.",
                    hint="Look for statistics over the batch axis, dropout, or BatchNorm that "
                    "eval() does not reach; a program must be exported in evaluation mode.",
                )
