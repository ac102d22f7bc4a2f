"""Reading and editing ONNX graphs with Q/DQ nodes: what several steps share. Needs onnx only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An INT8 embedding table.

    Attributes:
        codes: name of its initializer, int8 ``[rows, width]``.
        scales: one for each row, float32 ``[rows]``.
    """

    codes: str
    scales: NDArray[np.float32]


def initializers(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Name → initializer."""
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def constant(proto: onnx.ModelProto, name: str) -> NDArray[Any] | None:
    """The value of an initializer; None when the name is computed."""
    from onnx import numpy_helper

    for tensor in proto.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    return None


def add_constant(proto: onnx.ModelProto, name: str, value: NDArray[Any]) -> str:
    """An initializer with this value; one of that name is taken to be it; float64 turns float32."""
    from onnx import numpy_helper

    if all(tensor.name != name for tensor in proto.graph.initializer):
        array = np.asarray(value, dtype=np.float32 if value.dtype == np.float64 else value.dtype)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def readers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Name of a value → the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def table_of(
    proto: onnx.ModelProto, gather: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]
) -> Table | None:
    """The INT8 table that a Gather along axis 0 looks rows up in; None when it does not.

    Args:
        proto: the model.
        gather: the node.
        makers: name of a value → the node that computes it.
    """
    maker = makers.get(gather.input[0])
    if maker is None or maker.op_type != "DequantizeLinear" or attribute(gather, "axis", 0) != 0:
        return None
    codes = constant(proto, maker.input[0])
    scales = constant(proto, maker.input[1])
    zero = constant(proto, maker.input[2]) if len(maker.input) > 2 else np.zeros(1, np.int8)
    if codes is None or scales is None or zero is None:
        return None
    by_row = scales.size == 1 or attribute(maker, "axis", 1) in (0, -2)
    if codes.dtype != np.int8 or codes.ndim != 2 or zero.any() or not by_row:
        return None
    rows = np.broadcast_to(scales.reshape(-1), codes.shape[:1])
    return Table(codes=maker.input[0], scales=rows.astype(np.float32))


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A node's integer attribute."""
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def replace_node(
    proto: onnx.ModelProto, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]
) -> None:
    """Put nodes in the place of one, so that the graph stays in topological order."""
    place = next(index for index, node in enumerate(proto.graph.node) if node is old or node == old)
    del proto.graph.node[place]
    for offset, node in enumerate(new):
        proto.graph.node.insert(place + offset, node)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes and initializers that nothing reads any more, in place."""
    outputs = {value.name for value in proto.graph.output}
    while True:
        read = set(_read(proto.graph)) | outputs
        dead = [node for node in proto.graph.node if not read & set(node.output)]
        if not dead:
            break
        for node in dead:
            proto.graph.node.remove(node)
    for index in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[index].name not in read:
            del proto.graph.initializer[index]


def _read(graph: onnx.GraphProto) -> list[str]:
    """Names that the graph's nodes read, those of their inner graphs among them."""
    names: list[str] = []
    for node in graph.node:
        names += node.input
        for one in node.attribute:
            for inner in (one.g, *one.graphs):
                names += _read(inner)
                names += [value.name for value in inner.output]
    return names
