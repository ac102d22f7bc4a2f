"""What must hold of an ONNX file before it is taken as the original of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conch.errors import ConfigError, ParityError
from export import targets
from export.external_data import external_files

if TYPE_CHECKING:
    import onnx

    from export.recipe import Recipe, Tensor

KEY = "model.onnx"

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator sets that Triton's ONNX Runtime has built in."""

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
"""Operators whose constant inputs are weights: elsewhere infinity may be meant, as in a mask."""


def check(path: Path, recipe: Recipe, *, triton: str = targets.LOCAL) -> None:
    """Hold the file against the recipe.

    Args:
        path: the file.
        recipe: what it must be like.
        triton: the Triton that is to serve it: a release such as ``26.07``, or ``local``.

    Raises:
        ConfigError: when it is no valid ONNX, is too new for the server or has operators that the
            server has not, its batch axis is fixed, or its inputs and outputs are not the recipe's.
        ParityError: when a weight is NaN or infinite; it is named.
    """
    import onnx

    external_files(path)
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{KEY}: {path.name} is not valid ({line.rstrip('.')}).",
            hint="Export it again; onnx.checker.check_model tells the same.",
        ) from error
    proto = onnx.load(path)
    if problem := targets.check(_opsets(proto), proto.ir_version, targets.target(triton)):
        raise ConfigError(
            f"{KEY}: {path.name} has {problem}.",
            hint="Export it again with an older opset, or convert it with onnx.version_converter.",
        )
    _check_domains(proto)
    _check_names(proto, recipe)
    for declared, values in (
        (recipe.model.inputs, proto.graph.input),
        (recipe.model.outputs, proto.graph.output),
    ):
        by_name = {value.name: value for value in values}
        for tensor in declared:
            _check_value(by_name[tensor.name], tensor)
    _check_used(proto, recipe)
    _check_weights(proto)


def summary(path: Path) -> dict[str, Any]:
    """The file in figures, as JSON values: opset, IR, inputs, outputs, weights and operators."""
    import onnx

    proto = onnx.load(path)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    return {
        "opset": _opsets(proto),
        "ir_version": proto.ir_version,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "inputs": [_described(value) for value in _inputs(proto)],
        "outputs": [_described(value) for value in proto.graph.output],
        "parameters": sum(array.size for array in weights),
        "parameter_bytes": sum(array.nbytes for array in weights),
        "parameter_dtypes": dict(Counter(str(array.dtype) for array in weights)),
        "operators": dict(Counter(node.op_type for node in _nodes(proto.graph)).most_common()),
    }


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """Domain → version of its operator set."""
    return {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}


def _check_domains(proto: onnx.ModelProto) -> None:
    """Refuse operators of sets that the server's ONNX Runtime does not have."""
    own = {function.domain for function in proto.functions}
    foreign = {
        f"{node.domain}.{node.op_type}"
        for node in _nodes(proto.graph)
        if node.domain not in DOMAINS | own
    }
    if foreign:
        raise ConfigError(
            f"{KEY}: has the operators {', '.join(sorted(foreign))}, which ONNX Runtime does not "
            "have built in.",
            hint="Export the model with standard operators; custom operator libraries are not "
            "supported.",
        )


def _check_names(proto: onnx.ModelProto, recipe: Recipe) -> None:
    """The file's inputs are exactly the recipe's; its outputs are at least the recipe's."""
    has = [value.name for value in _inputs(proto)]
    wanted = [tensor.name for tensor in recipe.model.inputs]
    if set(has) != set(wanted):
        raise ConfigError(
            f"{KEY}: the file's inputs are {', '.join(has)}, the recipe names "
            f"{', '.join(wanted)}; they must be the same.",
            hint="Correct model.inputs.",
        )
    outputs = [value.name for value in proto.graph.output]
    if missing := [t.name for t in recipe.model.outputs if t.name not in outputs]:
        raise ConfigError(
            f"{KEY}: the file has no output {', '.join(missing)}; it has {', '.join(outputs)}.",
            hint="Correct model.outputs.",
        )


def _check_value(value: onnx.ValueInfoProto, tensor: Tensor) -> None:
    """Dtype, rank and dynamic axes of one input or output."""
    seen = _described(value)
    where = f"{KEY}: {tensor.name}"
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise ConfigError(
            f"{where} is a {str(kind).removesuffix('_type')} in the file, Triton serves tensors.",
            hint="A ZipMap makes one of a classifier's probabilities: convert again with "
            "options={'zipmap': False}; or leave the output out of model.outputs.",
        )
    if seen["dtype"] != tensor.dtype:
        raise ConfigError(
            f"{where} is {seen['dtype']} in the file, {tensor.dtype} in the recipe.",
            hint=f"Write dtype: {seen['dtype']}.",
        )
    dims = seen["dims"]
    if dims is None:
        return  # the file does not tell; running it will
    wanted = ("batch", *tensor.dims)
    if not dims or isinstance(dims[0], int):
        raise ConfigError(
            f"{KEY}: the batch axis is fixed ({tensor.name} {dims}), it must be dynamic.",
            hint="Export it again with a dynamic first axis on every input and output; the batch "
            "axis comes first.",
        )
    fits = len(dims) == len(wanted) and all(
        isinstance(size, str) or size == dim for size, dim in zip(dims, wanted, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"{where} is {dims} in the file, [{', '.join(map(str, wanted))}] in the recipe.",
            hint="Correct dims, or export it again with that axis dynamic; the batch axis is not "
            "written down.",
        )


def _check_used(proto: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse inputs that no operator reads: clients would send them for nothing."""
    read = {name for node in _nodes(proto.graph) for name in node.input}
    read.update(value.name for value in proto.graph.output)
    if unused := [tensor.name for tensor in recipe.model.inputs if tensor.name not in read]:
        raise ConfigError(
            f"{KEY}: no operator uses the input {', '.join(unused)}.",
            hint="Export the model without it, and remove it from model.inputs.",
        )


def _check_weights(proto: onnx.ModelProto) -> None:
    """Refuse NaN in any constant, and infinity in weights."""
    import onnx

    weights = {
        name for node in _nodes(proto.graph) if node.op_type in _WEIGHTED for name in node.input
    }
    bad = []
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind != "f":
            continue
        if np.isnan(array).any() or (tensor.name in weights and not np.isfinite(array).all()):
            bad.append(tensor.name)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ParityError(
            f"{KEY}: {', '.join(bad[:3])}{more} holds NaN or infinity, weights must be finite.",
            hint="The training diverged or the file is damaged: take an earlier checkpoint.",
        )


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives: old files list their weights as inputs, too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, also those in the branches and bodies of If, Loop and Scan."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _described(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Name, dtype in numpy's words, and dims: numbers, names of dynamic axes, None when untold."""
    import onnx

    kind = value.type.tensor_type
    form = value.type.WhichOneof("value")
    dtype = "unknown" if form in (None, "tensor_type") else form.removesuffix("_type")
    if kind.elem_type:
        found = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        dtype = "string" if found == np.dtype(object) else str(found)
    dims: list[int | str] | None = None
    if kind.HasField("shape"):
        dims = [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in kind.shape.dim
        ]
    return {"name": value.name, "dtype": dtype, "dims": dims}
