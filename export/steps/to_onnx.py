"""PyTorch → ONNX with torch's dynamo exporter, and proof that the file is valid and equal.

The exporter can write an invalid model without raising (pytorch/pytorch#158094), so the file is
checked, loaded and compared with the original at several sizes before anything else uses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from conch.errors import ConfigError, ParityError
from export import complexity, parity
from export.steps.base import Artifact, Context, Form, Step

if TYPE_CHECKING:
    import onnx
    import torch

    from export.recipe import Recipe

MODEL_FILE = "model.onnx"


class ToOnnx(Step):
    """Export, with a dynamic batch axis and the recipe's other axes, into one file."""

    name: ClassVar[str] = "to_onnx"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.ONNX

    opset: int = Field(
        default=20,
        ge=18,
        le=25,
        description="ONNX opset. From 23 on attention becomes one operator, which TensorRT "
        "and older ONNX Runtimes refuse.",
    )
    atol: float = Field(
        default=1e-4, gt=0, description="Largest absolute difference to the original."
    )
    rtol: float = Field(
        default=1e-3, gt=0, description="Largest difference relative to the original's value."
    )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The ONNX file, checked.

        Raises:
            ConfigError: when the batch axis is fixed, or a name collides with a value inside.
            ParityError: when the file does not load, or disagrees with the module.
        """
        import onnx

        path = context.folder / MODEL_FILE
        self._export(artifact, context, path)
        proto = onnx.load(path)
        check_names(proto, context.recipe)
        check_axes(proto, context.recipe)
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            raise ParityError(
                f"to_onnx: the exporter wrote an invalid file ({_first_line(error)}).",
                hint="Try another opset, or simplify the model's forward.",
            ) from error
        worst = self._compare(artifact, context, path)
        facts = {
            **artifact.facts,
            "complexity": self._complexity(artifact, context),
            "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
            "ir_version": proto.ir_version,
            "max_abs_diff": worst,
        }
        return Artifact(form=Form.ONNX, path=path, facts=facts)

    def _export(self, artifact: Artifact, context: Context, path: Path) -> None:
        """Write the file."""
        import onnx
        import torch

        recipe = context.recipe
        sizes = {"batch": 2, **{name: axis.example for name, axis in recipe.model.axes.items()}}
        arguments = _arguments(context, sizes)
        try:
            with _quiet():
                program = torch.onnx.export(
                    artifact.torch_module,
                    arguments,
                    dynamo=True,
                    opset_version=self.opset,
                    input_names=[tensor.name for tensor in recipe.model.inputs],
                    output_names=[tensor.name for tensor in recipe.model.outputs],
                    dynamic_shapes=_dynamic_shapes(recipe),
                    external_data=False,
                    verbose=False,
                )
                if program is None:
                    raise RuntimeError("the exporter gave no program")
                onnx.save(_without_traces(program.model_proto), path)
        except OSError:
            raise
        except Exception as error:  # the exporter has no error class of its own to rely on
            raise _export_failed(error, recipe) from error

    @staticmethod
    def _complexity(artifact: Artifact, context: Context) -> dict[str, int]:
        """MACs of one sample at example sizes, and parameters."""
        axes = {name: axis.example for name, axis in context.recipe.model.axes.items()}
        found = complexity.count(artifact.torch_module, _arguments(context, {"batch": 1, **axes}))
        return dataclasses.asdict(found)

    def _compare(self, artifact: Artifact, context: Context, path: Path) -> float:
        """Largest difference between file and module; raises when one exceeds the tolerance."""
        from export.session import Session
        from export.source import call

        session = Session(path)
        worst = 0.0
        for sizes in check_sizes(context.recipe):
            batch = context.data.examples(sizes)
            expected = call(artifact.torch_module, batch, context.recipe.model)
            got = session.run(batch)
            at = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
            if problem := parity.close(expected, got, atol=self.atol, rtol=self.rtol):
                raise ParityError(
                    f"to_onnx: at {at} {problem}; allowed are {self.atol:g} absolute plus "
                    f"{self.rtol:g} relative.",
                    hint="The exporter changed the model's meaning: look for branches on sizes, "
                    "or values computed once while tracing.",
                )
            worst = max(worst, *(parity.max_abs_diff(expected[k], got[k]) for k in expected))
        return worst


def _arguments(context: Context, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    """Example inputs of these sizes as the arguments of ``forward``."""
    import torch

    example = context.data.examples(sizes)
    return tuple(torch.from_numpy(example[t.name]) for t in context.recipe.model.inputs)


def check_sizes(recipe: Recipe) -> list[dict[str, int]]:
    """The sizes at which a model is checked: batch 1, 2 and max; axes at example, min and max."""
    axes = recipe.model.axes
    example = {name: axis.example for name, axis in axes.items()}
    sizes = [
        {"batch": 1, **example},
        {"batch": 2, **{name: axis.min for name, axis in axes.items()}},
        {"batch": recipe.serving.max_batch_size, **example},
        {"batch": 2, **{name: axis.max for name, axis in axes.items()}},
    ]
    return [size for index, size in enumerate(sizes) if size not in sizes[:index]]


def check_names(proto: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse a graph whose inputs or outputs share a name with a value inside it.

    Raises:
        ConfigError: with the colliding names.
    """
    made = Counter(name for node in proto.graph.node for name in node.output if name)
    taken = [value.name for value in proto.graph.input]
    taken += [value.name for value in proto.graph.initializer]
    made.update(taken)
    wanted = {tensor.name for tensor in (*recipe.model.inputs, *recipe.model.outputs)}
    if twice := sorted(name for name in wanted if made[name] > 1):
        raise ConfigError(
            f"model {recipe.model.name}: the name {', '.join(twice)} is also that of a value "
            "inside the exported graph, which makes the file invalid; names must be unique.",
            hint=f"Rename it in the recipe, e.g. to {recipe.model.name}_{twice[0]}.",
        )
    missing = sorted(wanted - set(made))
    if missing:
        raise ConfigError(
            f"model {recipe.model.name}: the exported graph has no {', '.join(missing)}; "
            f"it has the inputs {', '.join(value.name for value in proto.graph.input)}.",
            hint="An input that forward never uses is dropped: remove it from the recipe.",
        )


def check_axes(proto: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse a graph that a batching server could not use: the first axis must be dynamic.

    Raises:
        ConfigError: with the tensors whose batch axis is fixed.
    """
    fixed = []
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            fixed.append(f"{value.name} {[d.dim_param or d.dim_value for d in dims]}")
    if fixed:
        raise no_batch_axis(recipe.model.name, "; ".join(fixed))


def no_batch_axis(model: str, seen: str) -> ConfigError:
    """The error for a model that only runs at one batch size."""
    return ConfigError(
        f"model {model}: the batch axis is fixed ({seen}), it must be dynamic.",
        hint="Use x.shape[0] or -1 in forward instead of a number, and keep the batch axis first.",
    )


def _dynamic_shapes(recipe: Recipe) -> tuple[dict[int, Any], ...]:
    """For each input: its dynamic axes. One Dim object a name, so equal axes stay equal."""
    from torch.export import Dim

    dims = {"batch": Dim("batch", min=1, max=max(2, recipe.serving.max_batch_size))}
    for name, axis in recipe.model.axes.items():
        dims[name] = Dim(name, min=axis.min, max=axis.max)
    return tuple(
        {
            index: dims[dim]
            for index, dim in enumerate(("batch", *tensor.dims))
            if isinstance(dim, str)
        }
        for tensor in recipe.model.inputs
    )


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes on each node.

    They hold stack traces with paths of this machine: no one else's business, and the reason why
    equal models would become unequal files.
    """
    bodies: list[Any] = [proto.graph, *proto.functions]
    for body in bodies:
        del body.metadata_props[:]
        for node in body.node:
            del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    return proto


def _export_failed(error: Exception, recipe: Recipe) -> ConfigError:
    """What to tell the user when torch.export or the conversion raised."""
    text = f"{error}\n{error.__cause__ or ''}"
    if "onstraints violated" in text or "specialized" in text or "constant" in text.lower():
        axes = [name for name in ("batch", *recipe.model.axes) if name in text]
        if axes[:1] == ["batch"]:
            return no_batch_axis(recipe.model.name, "found by torch.export")
        return ConfigError(
            f"model {recipe.model.name}: torch.export found that {', '.join(axes) or 'an axis'} "
            "cannot have every size from its min to its max.",
            hint="Correct model.axes in the recipe, or the branch on that size in forward.",
        )
    return ConfigError(
        f"model {recipe.model.name}: torch.onnx.export failed "
        f"({type(error).__name__}: {_first_line(error)}).",
        hint="Run it again with --debug for torch's own report.",
    )


def _first_line(error: BaseException) -> str:
    """The first line of the error's deepest cause that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's advice on torchvision and axis names is no news for a user of a recipe."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
