"""ONNX → INT8 ONNX with ONNX Runtime's own quantizers.

Which one pays depends on the model: dynamic INT8 suits transformers on a CPU, static QDQ suits
convolutions. Neither is trusted: the gates judge what comes out.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from conch.errors import ConfigError, ParityError
from export.steps.base import Artifact, Batch, Context, Form, NonEmpty, Step
from export.steps.to_onnx import MODEL_FILE

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


class _Quantize(Step):
    """What both methods share."""

    name: ClassVar[str] = "quantize"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX

    per_channel: bool = Field(
        default=True, description="One weight scale for each output channel, not one in all."
    )
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights: for CPUs without VNNI, whose 8-bit sums can saturate.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Names of graph nodes to keep in floating point."
    )

    def _check_excluded(self, path: Path) -> None:
        """Refuse names that the graph does not have: they would silently do nothing."""
        import onnx

        known = {node.name for node in onnx.load(path).graph.node}
        if unknown := sorted(set(self.exclude) - known):
            raise ConfigError(
                f"quantize.exclude: {', '.join(unknown)} not among the graph's {len(known)} nodes.",
                hint="Take the names from the ONNX file of the unquantized variant.",
            )


class DynamicInt8(_Quantize):
    """INT8 weights; activations are quantized per request, so no calibration data is needed."""

    method: Literal["dynamic"] = Field(description="INT8 weights, ranges found per request.")
    op_types: Annotated[tuple[Literal["MatMul", "Gather", "Conv"], ...], NonEmpty] = Field(
        default=("MatMul", "Gather"),
        description="Operators to quantize. MatMul stands for linear layers of every kind, "
        "Gather for embedding tables.",
    )

    @property
    def label(self) -> str:
        """Step and method."""
        return "quantize dynamic"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ConfigError: when ``exclude`` names nodes that are not there.
            ParityError: when the quantizer fails on this graph.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        self._check_excluded(artifact.file)
        path = context.folder / MODEL_FILE
        with _quantizer(self.label):
            quantize_dynamic(
                _without_weight_shapes(artifact.file),
                path,
                op_types_to_quantize=list(self.op_types),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(self.exclude),
            )
        _check_quantized(path, self.label)
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, "quantized": "dynamic"})


class StaticQdq(_Quantize):
    """INT8 weights and activations; ranges come once from calibration data (Q/DQ nodes)."""

    method: Literal["static_qdq"] = Field(description="INT8 with ranges from calibration data.")
    activations: Literal["u8", "s8"] = Field(
        default="u8",
        description="`u8`: asymmetric, the fast one on x86; `s8`: symmetric, TensorRT's.",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="How a range is taken from the data. The last two need batches of one shape.",
    )
    op_types: tuple[str, ...] = Field(
        default=(), description="Operators to quantize; empty for all that ONNX Runtime knows."
    )

    @property
    def needs_calibration(self) -> bool:
        """Always."""
        return True

    @property
    def label(self) -> str:
        """Step and method."""
        return f"quantize static {self.activations}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ConfigError: when ``exclude`` names nodes that are not there.
            ParityError: when the quantizer fails on this graph or data.
        """
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = context.folder / "prepared.onnx"
        path = context.folder / MODEL_FILE
        symmetric = self.activations == "s8"
        batches = context.calibration()
        method = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }[self.calibration]
        with _quantizer(self.label):
            # Symbolic shape inference fails on graphs of the dynamo exporter, which carry shapes.
            quant_pre_process(artifact.file, prepared, skip_symbolic_shape=True)
            self._check_excluded(prepared)
            quantize_static(
                prepared,
                path,
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(self.op_types) or None,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(self.exclude),
                calibrate_method=method,
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
        _check_quantized(path, self.label)
        prepared.unlink()
        rows = sum(len(next(iter(batch.values()))) for batch in batches)
        facts = {"quantized": f"static_qdq {self.activations}", "calibration_samples": rows}
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, **facts})


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


def _check_quantized(path: Path, label: str) -> None:
    """Refuse a result in which nothing was quantized: it would pass every fidelity gate."""
    import onnx

    kinds = {node.op_type for node in onnx.load(path).graph.node}
    if not kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"}:
        raise ParityError(
            f"{label}: quantized nothing; the graph has {', '.join(sorted(kinds))}.",
            hint="Name operators of this graph in op_types, or use another method.",
        )


class _Reader:
    """Calibration batches in the form that ONNX Runtime asks for."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        """Start at the first batch."""
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


@contextlib.contextmanager
def _quantizer(label: str) -> Iterator[None]:
    """Keep the quantizer's advice off the terminal; name the step when it fails."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (ConfigError, OSError):
        raise
    except Exception as error:  # the quantizers raise whatever they meet
        text = str(error).strip().splitlines()
        raise ParityError(
            f"{label}: ONNX Runtime's quantizer failed "
            f"({type(error).__name__}: {text[0] if text else 'no message'}).",
            hint="Check that calibration batches have the model's input names and one shape.",
        ) from error
    finally:
        root.setLevel(level)
