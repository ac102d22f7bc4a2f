"""Which layers lose most by INT8: each one alone is rounded, and the model's outputs are compared.

Rounding one layer at a time keeps causes apart. The other way round (one layer kept in float in a
quantized model) measures little where several layers are bad: the rest drowns the difference.
Rounding is simulated in the coarsest format in use, symmetric S8 with the largest value as range,
so that one table serves TensorRT and the CPU; ranges come from the same few samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from conch.errors import ConfigError, ParityError
from export import parity
from export.session import available_cores
from export.steps import qdq
from export.steps.base import Artifact, Batch, Context, Form, Part, Step
from export.steps.quantize.calibration import joined
from export.steps.quantize.method import QUANTIZED_OPS, SENSITIVITY

if TYPE_CHECKING:
    import onnx

Outputs = dict[str, NDArray[Any]]
Weights = dict[str, NDArray[np.float32]]
_MATRIX = 2
"""Axes from which on an initializer counts as a weight; biases and scales have one."""

OP_TYPES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather")
_EQUAL_DB = 120.0
"""SQNR from which on a layer's rounding is not seen in the outputs; infinity is no JSON."""


class RankLayers(Step):
    """Pass the model on unchanged, with a table of its layers, the most sensitive first."""

    name: ClassVar[str] = "rank_layers"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    samples: int = Field(
        default=8, ge=1, description="Calibration samples to compare on; time grows with them."
    )

    @property
    def uses(self) -> frozenset[Part]:
        """Calibration data."""
        return frozenset({Part.CALIBRATION})

    @property
    def label(self) -> str:
        """What it does."""
        return "rank layers"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The same file; ``sensitivity`` in the facts.

        Raises:
            ConfigError: when the model is quantized already, or has no layer to quantize.
            ParityError: when ONNX Runtime fails on the model or the data.
        """
        import onnx

        proto = onnx.load(artifact.file)
        if any(node.op_type in QUANTIZED_OPS for node in proto.graph.node):
            raise ConfigError(
                "rank_layers: the model is quantized already, it must still be in float.",
                hint="Put rank_layers before quantize.",
            )
        batch = _few(context.data.calibration(), self.samples)
        rows = list(self._ranked(proto, batch, context))
        if not rows:
            raise ConfigError(
                f"rank_layers: the graph has none of {', '.join(OP_TYPES)}, nothing to rank.",
                hint="Leave rank_layers and quantize out.",
            )
        rows.sort(key=lambda row: (row["sqnr_db"], row["node"]))
        return dataclasses.replace(artifact, facts={**artifact.facts, SENSITIVITY: rows})

    def _ranked(
        self, proto: onnx.ModelProto, batch: Batch, context: Context
    ) -> Iterator[dict[str, Any]]:
        """One row for each layer, in the order of the graph."""
        weights = _lightened(proto)
        layers = [index for index, node in enumerate(proto.graph.node) if _counts(node, weights)]
        nodes = [proto.graph.node[index] for index in layers]
        wanted = {name for node in nodes for name in _activations(node, weights)}
        reference, ranges = _ranges(proto, weights, batch, sorted(wanted))
        for done, (index, node) in enumerate(zip(layers, nodes, strict=True), start=1):
            outputs = _outputs(*_with_rounded(proto, index, weights, ranges), batch)
            agreement = parity.compare([reference], [outputs])
            params = [weights[name].size for name in node.input if name in weights]
            yield {
                "node": node.name,
                "op_type": node.op_type,
                "cosine": round(agreement.cosine, 6),
                "sqnr_db": round(min(agreement.sqnr_db, _EQUAL_DB), 3),
                "params": sum(params),
            }
            context.tell(done, len(layers), node.name)


def _lightened(proto: onnx.ModelProto) -> Weights:
    """Take the weights out of the model, so that each variation of it is copied in no time.

    What is left says that they lie elsewhere; ``_outputs`` hands them to ONNX Runtime.
    """
    from onnx import TensorProto, numpy_helper

    weights = {}
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim < _MATRIX:
            continue
        weights[tensor.name] = array
        light = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        light.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "memory", "offset": 0, "length": array.nbytes}.items():
            light.external_data.add(key=key, value=str(value))
        tensor.CopyFrom(light)
    return weights


def _few(batches: list[dict[str, NDArray[Any]]], samples: int) -> Outputs:
    """The first samples, as one batch; those of the first batch's shape only."""
    first = {name: array.shape[1:] for name, array in batches[0].items()}
    alike = [b for b in batches if {n: a.shape[1:] for n, a in b.items()} == first]
    return {name: array[:samples] for name, array in joined(alike).items()}


def _counts(node: onnx.NodeProto, weights: Weights) -> bool:
    """Whether quantizers would take this node: a product, or a lookup in a table of floats."""
    if node.op_type not in OP_TYPES or not node.name:
        return False
    return node.op_type != "Gather" or node.input[0] in weights


def _activations(node: onnx.NodeProto, weights: Weights) -> list[str]:
    """The computed values that the node multiplies; none for a lookup."""
    if node.op_type == "Gather":
        return []
    return [name for name in node.input[:2] if name not in weights]


def _ranges(
    proto: onnx.ModelProto, weights: Weights, batch: Batch, names: list[str]
) -> tuple[Outputs, dict[str, float]]:
    """The model's outputs, and the largest absolute value of each named activation."""
    from onnx import TensorProto, helper

    wider = type(proto)()
    wider.CopyFrom(proto)
    for index, name in enumerate(names):
        size, most = f"conch_abs_{index}", f"conch_max_{index}"
        wider.graph.node.append(helper.make_node("Abs", [name], [size]))
        wider.graph.node.append(helper.make_node("ReduceMax", [size], [most], keepdims=0))
        wider.graph.output.append(helper.make_tensor_value_info(most, TensorProto.FLOAT, []))
    found = _outputs(wider, weights, batch)
    ranges = {name: float(found.pop(f"conch_max_{i}")) for i, name in enumerate(names)}
    return found, ranges


def _with_rounded(
    proto: onnx.ModelProto, index: int, weights: Weights, ranges: Mapping[str, float]
) -> tuple[onnx.ModelProto, Weights]:
    """A copy of the model with the inputs of one node rounded to 8 bits, and its weights."""
    from onnx import helper, numpy_helper

    copy = type(proto)()
    copy.CopyFrom(proto)
    node = copy.graph.node[index]
    changed = dict(weights)
    made = []
    for position in [0] if node.op_type == "Gather" else [0, 1]:
        name = node.input[position]
        if name in weights:
            changed[name] = _rounded(weights[name], _axis(node, weights[name]))
            continue
        scale, zero = f"conch_s{position}", f"conch_z{position}"
        step = np.float32(max(ranges[name], 1e-12) / 127)
        copy.graph.initializer.append(numpy_helper.from_array(np.array(step), scale))
        copy.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
        codes, values = f"conch_q{position}", f"conch_d{position}"
        made.append(helper.make_node("QuantizeLinear", [name, scale, zero], [codes]))
        made.append(helper.make_node("DequantizeLinear", [codes, scale, zero], [values]))
        node.input[position] = values
    for new in reversed(made):
        copy.graph.node.insert(index, new)
    return copy, changed


def _axis(node: onnx.NodeProto, weight: NDArray[Any]) -> int:
    """The axis of a weight that has a scale for each entry: output channels, rows of a table."""
    if node.op_type == "MatMul":
        return weight.ndim - 1
    if node.op_type == "Gemm":
        return 0 if qdq.attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _rounded(weight: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """The weight after symmetric 8-bit rounding with one scale for each entry of ``axis``."""
    others = tuple(one for one in range(weight.ndim) if one != axis)
    scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-12) / 127
    rounded: NDArray[np.float32] = (np.round(weight / scale) * scale).astype(np.float32)
    return rounded


def _outputs(model: onnx.ModelProto, weights: Weights, batch: Batch) -> Outputs:
    """What the model gives for the batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(batch)), strict=True))
    except Exception as error:  # its exceptions share no base class but Exception
        raise ParityError(
            f"rank_layers: ONNX Runtime fails ({str(error).splitlines()[0]}).",
            hint="Check that calibration batches have the model's input names and shapes.",
        ) from error
