"""Static INT8 by ONNX Runtime's quantizer: ranges come once, from calibration data (Q/DQ nodes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from export.steps.base import Artifact, Context, Part
from export.steps.onnx_file import as_one_file
from export.steps.quantize import calibration
from export.steps.quantize.method import QuantizeMethod, running
from export.steps.to_onnx import MODEL_FILE

if TYPE_CHECKING:
    import onnx


class StaticQdq(QuantizeMethod):
    """INT8 weights and activations; ranges come once from calibration data (Q/DQ nodes)."""

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "sympy")

    method: Literal["static_qdq"] = Field(description="INT8 with ranges from calibration data.")
    activations: Literal["u8", "s8"] = Field(
        default="u8",
        description="`u8`: asymmetric, the fast one on x86; `s8`: symmetric, TensorRT's.",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="How a range is taken from the data. The last two need batches of one shape.",
    )
    per_channel: bool = Field(
        default=True, description="One weight scale for each output channel, not one in all."
    )
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights: for CPUs without VNNI, whose 8-bit sums can saturate.",
    )
    quantize_bias: bool | None = Field(
        default=None,
        description="Also quantize biases, to int32. TensorRT refuses such a file, so the default "
        "is true with `u8` and false with `s8`.",
    )
    op_types: tuple[str, ...] = Field(
        default=(), description="Operators to quantize; empty for all that ONNX Runtime knows."
    )

    @property
    def uses(self) -> frozenset[Part]:
        """Calibration data."""
        return frozenset({Part.CALIBRATION})

    @property
    def label(self) -> str:
        """Step, method, and what is not the default."""
        how = "" if self.calibration == "minmax" else f" {self.calibration}"
        return f"quantize static {self.activations}{how}{self.suffix}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ConfigError: when ``exclude`` names nodes that are not there, or the calibration data
                is of unequal shapes.
            ParityError: when the quantizer fails on this graph or data.
        """
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        batches = context.data.calibration()
        if self.calibration != "minmax":
            batches = calibration.of_one_shape(batches, purpose=self.label)
        context.scratch.mkdir(parents=True, exist_ok=True)
        given = as_one_file(artifact.file, context.scratch, step=self.label)
        prepared = context.scratch / "prepared.onnx"
        path = context.folder / MODEL_FILE
        symmetric = self.activations == "s8"
        bias = self.quantize_bias if self.quantize_bias is not None else not symmetric
        with running(
            self.label,
            "ONNX Runtime's quantizer",
            hint="Try another method, or name fewer operators in op_types.",
        ):
            # Symbolic shape inference fails on graphs of the dynamo exporter, which carry shapes.
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            proto = onnx.load(prepared)
            flatten_biases(proto)
            onnx.save(proto, prepared)
            excluded = self.excluded(proto, artifact.facts)
            quantize_static(
                prepared,
                path,
                calibration.Reader(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(self.op_types) or None,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=excluded,
                calibrate_method={
                    "minmax": CalibrationMethod.MinMax,
                    "entropy": CalibrationMethod.Entropy,
                    "percentile": CalibrationMethod.Percentile,
                }[self.calibration],
                extra_options={
                    "ActivationSymmetric": symmetric,
                    "WeightSymmetric": True,
                    "QuantizeBias": bias,
                },
            )
        return self.finished(
            artifact,
            path,
            excluded=excluded,
            calibration=self.calibration,
            calibration_samples=calibration.sample_count(batches),
        )


def flatten_biases(proto: onnx.ModelProto) -> None:
    """Make biases of Gemm nodes vectors, as the per-channel quantizer takes them for granted.

    Its preparation fuses MatMul and Add with a bias ``[1, n]`` into such a Gemm (onnxruntime 1.31:
    "The truth value of an array with more than one element is ambiguous"). Broadcasting makes the
    two shapes equal.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in weights:
            continue
        bias = weights[node.input[2]]
        readers = [one for one in proto.graph.node if bias.name in one.input]
        if len(bias.dims) == 2 and bias.dims[0] == 1 and readers == [node]:
            del bias.dims[0]
            stale = [value for value in proto.graph.value_info if value.name == bias.name]
            for value in stale:
                proto.graph.value_info.remove(value)
