"""Dynamic INT8: weights are quantized now, activations in each request. No calibration data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from export.steps.base import Artifact, Context, NonEmpty
from export.steps.quantize.method import QuantizeMethod, running
from export.steps.to_onnx import MODEL_FILE

if TYPE_CHECKING:
    import onnx


class DynamicInt8(QuantizeMethod):
    """INT8 weights; activations are quantized per request, so no calibration data is needed."""

    method: Literal["dynamic"] = Field(description="INT8 weights, ranges found per request.")
    per_channel: bool = Field(
        default=True, description="One weight scale for each output channel, not one in all."
    )
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights: for CPUs without VNNI, whose 8-bit sums can saturate.",
    )
    op_types: Annotated[tuple[Literal["MatMul", "Gather", "Conv"], ...], NonEmpty] = Field(
        default=("MatMul", "Gather"),
        description="Operators to quantize. MatMul stands for linear layers of every kind, "
        "Gather for embedding tables.",
    )

    @property
    def label(self) -> str:
        """Step and method."""
        return f"quantize dynamic{self.suffix}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ConfigError: when ``exclude`` names nodes that are not there.
            ParityError: when the quantizer fails on this graph.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        proto = _without_weight_shapes(artifact.file)
        excluded = self.excluded(proto, artifact.facts)
        path = context.folder / MODEL_FILE
        with running(self.label, "ONNX Runtime's quantizer", hint="Try another method."):
            quantize_dynamic(
                proto,
                path,
                op_types_to_quantize=list(self.op_types),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=excluded,
            )
        return self.finished(artifact, path, excluded=excluded)


def _without_weight_shapes(path: Path) -> onnx.ModelProto:
    """The model without recorded shapes of its weights.

    The dynamo exporter records them; the dynamic quantizer transposes the weights of a Gemm, and
    its own shape inference then stumbles over the old record.
    """
    import onnx

    proto = onnx.load(path)
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return proto
