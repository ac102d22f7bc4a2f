"""A ``torch.export`` program in a file as a module that can be stored, trained and exported."""

from __future__ import annotations

import io
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conch.errors import ConfigError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from export.recipe import Recipe
    from export.recipe import Tensor as Declared

KEY = "model.program"


def module_of(content: bytes) -> nn.Module:
    """The module of a ``.pt2`` file's content.

    It is the graph itself, not a wrapper around it: the exporter to ONNX loses the weights of a
    nested one. A graph is of a class of its own, which here learns to be stored (as its file and
    its present weights) and to be told a mode: what ``eval`` would change was fixed when the
    program was exported, and torch refuses the call.
    """
    graph = torch.export.load(io.BytesIO(content)).module()

    def reduce(self: nn.Module) -> tuple[Any, ...]:
        return _rebuilt, (content, self.state_dict())

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        self.training = mode
        return self

    of_its_own: Any = type(graph)
    of_its_own.__reduce__ = reduce
    for name, method in (("train", train), ("eval", lambda self: train(self, mode=False))):
        graph.__dict__[name] = types.MethodType(method, graph)  # torch's refusal is set so, too
    return graph


def load(path: Path, recipe: Recipe) -> nn.Module:
    """The program's module, checked against the recipe.

    Raises:
        ConfigError: when the file is no program of this version of PyTorch, its batch axis is
            fixed or too small, or its inputs are not the recipe's.
    """
    content = path.read_bytes()
    try:
        program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # torch raises what it likes on files of another kind or version
        line = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"{KEY}: {path} cannot be loaded ({type(error).__name__}: {line.rstrip('.')}).",
            hint=f"Save it by torch.export.save with PyTorch {torch.__version__}; TorchScript "
            "files are another format.",
        ) from error
    _check_inputs(program, recipe)
    return module_of(content).eval()


def _rebuilt(content: bytes, state: Mapping[str, Any]) -> nn.Module:
    """A stored module."""
    module = module_of(content)
    module.load_state_dict(state)
    return module


def _check_inputs(program: ExportedProgram, recipe: Recipe) -> None:
    """The program's inputs, in order, against the recipe's."""
    names = program.graph_signature.user_inputs
    declared = recipe.model.inputs
    if len(names) != len(declared):
        raise ConfigError(
            f"{KEY}: the program takes {len(names)} inputs ({', '.join(map(str, names))}), the "
            f"recipe names {len(declared)}.",
            hint="Correct model.inputs.",
        )
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, tensor in zip(names, declared, strict=True):
        node = nodes[str(name)]
        if not node.users:
            raise ConfigError(
                f"{KEY}: the program never uses its input {name} ({tensor.name} in the recipe).",
                hint="Export the program without it, and remove it from model.inputs.",
            )
        _check_input(node.meta["val"], tensor, program, recipe)


def _check_input(value: Tensor, tensor: Declared, program: ExportedProgram, recipe: Recipe) -> None:
    """Dtype, rank and dynamic axes of one input."""
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != tensor.dtype:
        raise ConfigError(
            f"{KEY}: input {tensor.name} is {dtype} in the program, {tensor.dtype} in the recipe.",
            hint=f"Write dtype: {dtype} in model.inputs.",
        )
    dims = ("batch", *tensor.dims)
    if value.dim() != len(dims):
        raise ConfigError(
            f"{KEY}: input {tensor.name} has {value.dim()} axes in the program, the recipe says "
            f"[{', '.join(map(str, dims))}].",
            hint="Correct dims in model.inputs; the batch axis is not written down.",
        )
    for axis, (dim, size) in enumerate(zip(dims, value.shape, strict=True)):
        _check_axis(f"input {tensor.name}, axis {axis}", dim, size, program, recipe)


def _check_axis(
    where: str, dim: int | str, size: int | torch.SymInt, program: ExportedProgram, recipe: Recipe
) -> None:
    """One axis: fixed to the recipe's size, or dynamic over all sizes that the recipe asks for."""
    if isinstance(dim, int):
        fits = isinstance(size, torch.SymInt) or size == dim
        wanted = str(dim)
    else:
        axis = recipe.model.axes.get(dim)
        low, high = (axis.min, axis.max) if axis else (1, recipe.serving.max_batch_size)
        wanted = f"{low} to {high} ({dim})"
        fits = isinstance(size, torch.SymInt)
        if isinstance(size, torch.SymInt):
            bounds = program.range_constraints.get(size.node.expr)
            if bounds is not None:
                fits = bool(bounds.lower <= max(low, 2) and bounds.upper >= high)
                size_text = f"{bounds.lower} to {bounds.upper}"
                if not fits:
                    raise _wrong_axis(where, size_text, wanted)
    if not fits:
        raise _wrong_axis(where, f"fixed to {size}", wanted)


def _wrong_axis(where: str, seen: str, wanted: str) -> ConfigError:
    """The error for an axis of the program that does not cover the recipe's sizes."""
    return ConfigError(
        f"{KEY}: {where} is {seen}, the recipe needs {wanted}.",
        hint="Export the program again with dynamic_shapes over these sizes, e.g. "
        "Dim('batch', min=1, max=32), or correct the recipe.",
    )
