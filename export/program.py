"""A ``torch.export`` program in a file as a module that can be stored, trained and exported."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from conch.errors import ConfigError
from export.positional import MOST_INPUTS, Positional

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from export.recipe import Recipe
    from export.recipe import Tensor as Declared

KEY = "model.program"


class ProgramModule(Positional):
    """The program's graph. What ``eval`` would change was fixed when it was exported."""

    def __init__(self, content: bytes) -> None:
        """Load the content of a ``.pt2`` file."""
        super().__init__()
        self.content = content
        self.graph = torch.export.load(io.BytesIO(content)).module()

    def compute(self, *given: Tensor) -> Any:
        """What the program gives."""
        return self.graph(*given)

    def train(self, mode: bool = True) -> Self:
        """Only notes the mode: graphs of torch.export refuse to change theirs."""
        self.training = mode
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """The file and the present weights: the graph itself cannot be pickled."""
        return _rebuilt, (self.content, self.state_dict())


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
    return ProgramModule(content).eval()


def _rebuilt(content: bytes, state: Mapping[str, Any]) -> ProgramModule:
    """A stored module."""
    module = ProgramModule(content)
    module.load_state_dict(state)
    return module


def _check_inputs(program: ExportedProgram, recipe: Recipe) -> None:
    """The program's inputs, in order, against the recipe's."""
    names = program.graph_signature.user_inputs
    declared = recipe.model.inputs
    if len(names) != len(declared) or len(names) > MOST_INPUTS:
        raise ConfigError(
            f"{KEY}: the program takes {len(names)} inputs ({', '.join(map(str, names))}), the "
            f"recipe names {len(declared)}; both must be equal and at most {MOST_INPUTS}.",
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
