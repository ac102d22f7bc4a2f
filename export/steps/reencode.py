"""One calibration, two encodings: a symmetric INT8 graph for TensorRT becomes one for the CPU.

TensorRT takes signed activations with zero point 0 only. x86 has fast instructions for unsigned
activations times signed weights only, and the signed graph is often slower than float there.
Shifting the zero point moves the codes and nothing else: ``(q + 128) - (z + 128) = q - z`` with the
same scale, so no new calibration is needed and every rounded value stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from conch.errors import ParityError
from export.steps import qdq
from export.steps.base import Artifact, Context, Form, Step
from export.steps.to_onnx import MODEL_FILE

if TYPE_CHECKING:
    import onnx

_SHIFT = 128


class Reencode(Step):
    """S8 activations → U8 with zero point 128, and embeddings looked up in INT8."""

    name: ClassVar[str] = "reencode"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    packages: ClassVar[tuple[str, ...]] = ("onnx",)

    embeddings: bool = Field(
        default=True,
        description="Look rows of INT8 embedding tables up first and scale those alone; else each "
        "request turns the whole table into floats.",
    )

    @property
    def label(self) -> str:
        """Step and what it gives."""
        return "reencode u8"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The re-encoded file.

        Raises:
            ParityError: when the graph is not quantized, or uses codes in a way that cannot be
                shifted.
        """
        import onnx

        proto = onnx.load(artifact.file)
        found = shift_activations(proto)
        tables = look_up_first(proto) if self.embeddings else 0
        qdq.drop_unused(proto)
        # Recorded types still say int8, and ONNX Runtime believes them.
        del proto.graph.value_info[:]
        path = context.folder / MODEL_FILE
        onnx.save(proto, path)
        told = {"activations": found, "embedding_tables": tables}
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, "reencoded": told})


def shift_activations(proto: onnx.ModelProto) -> int:
    """Turn each S8 activation into U8, in place; gives how many there were.

    Raises:
        ParityError: when there are no Q/DQ pairs, or something else reads the codes.
    """
    readers = qdq.readers(proto)
    pairs = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    if not pairs:
        raise ParityError(
            "reencode: the graph has no QuantizeLinear, so no activations to re-encode.",
            hint="Put it after quantize with smoothquant, modelopt or static_qdq s8.",
        )
    shifted = 0
    for node in pairs:
        zero = qdq.constant(proto, node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype != np.int8:
            continue  # U8 already
        using = readers.get(node.output[0], [])
        if other := sorted({one.op_type for one in using} - {"DequantizeLinear"}):
            raise ParityError(
                f"reencode: {', '.join(other)} reads the codes of {node.input[0]}, must be "
                "DequantizeLinear alone.",
                hint="Leave out reencode; the S8 file works on a CPU too, only slower.",
            )
        name = qdq.add_constant(
            proto, f"{node.input[2]}_u8", (zero.astype(np.int16) + _SHIFT).astype(np.uint8)
        )
        for one in (node, *using):
            one.input[2] = name
        shifted += 1
    return shifted


def look_up_first(proto: onnx.ModelProto) -> int:
    """Swap ``Gather(Dequantize(table), ids)`` for ``Dequantize(Gather(table, ids))``, in place.

    A scale for each row cannot be written as DequantizeLinear of the rows looked up, so it becomes
    a second table: Cast(Gather(table, ids)) * Gather(scales, ids).

    Returns:
        How many tables there were.
    """
    from onnx import TensorProto, helper

    makers = {name: node for node in proto.graph.node for name in node.output}
    graph_outputs = {value.name for value in proto.graph.output}
    swapped = 0
    for node in [node for node in proto.graph.node if node.op_type == "Gather"]:
        table = qdq.table_of(proto, node, makers)
        if table is None:
            continue
        out = node.output[0]
        if out in graph_outputs:
            continue
        name = f"{node.name or out}_int8"
        scales = qdq.add_constant(proto, f"{name}_scales", table.scales.reshape(-1, 1))
        ids = node.input[1]
        made = [
            helper.make_node("Gather", [table.codes, ids], [f"{name}_codes"], name=name, axis=0),
            helper.make_node(
                "Cast", [f"{name}_codes"], [f"{name}_cast"], name=f"{name}_cast",
                to=TensorProto.FLOAT,
            ),
            helper.make_node(
                "Gather", [scales, ids], [f"{name}_scale"], name=f"{name}_scale", axis=0
            ),
            helper.make_node(
                "Mul", [f"{name}_cast", f"{name}_scale"], [out], name=f"{name}_scaled"
            ),
        ]  # fmt: skip
        qdq.replace_node(proto, node, made)
        swapped += 1
    return swapped
