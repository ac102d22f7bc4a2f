"""SmoothQuant by NNCF: outliers of activations move into the weights before both are quantized.

It decides whether a transformer survives static INT8: the few channels with huge activations no
longer set the scale of all others. What comes out is symmetric (zero point 0), so TensorRT takes
it; ``reencode`` makes the file for the CPU from it.

Source: G. Xiao et al., "SmoothQuant", 2023; NNCF 3.4.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from export.optional import require
from export.steps import qdq
from export.steps.base import Artifact, Context, Part
from export.steps.quantize import calibration
from export.steps.quantize.method import QuantizeMethod, running
from export.steps.to_onnx import MODEL_FILE

if TYPE_CHECKING:
    import onnx


class SmoothQuant(QuantizeMethod):
    """NNCF's symmetric INT8 with SmoothQuant and bias correction."""

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "nncf")

    method: Literal["smoothquant"] = Field(
        description="INT8 with outliers of activations moved into the weights; needs the extra "
        "`smooth`."
    )
    architecture: Literal["auto", "transformer", "other"] = Field(
        default="auto",
        description="`transformer` keeps masks, softmax and residual sums in floating point; "
        "`auto`: transformer when the graph has softmax and layer normalisation.",
    )
    alpha: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="How much of an outlier moves into the weights: 0 none, 1 all.",
    )
    signed: bool = Field(
        default=True,
        description="S8 activations, TensorRT's only format. `false` gives U8 with zero point 0 "
        "where activations are never negative: one bit finer, for the CPU only.",
    )

    @property
    def uses(self) -> frozenset[Part]:
        """Calibration data."""
        return frozenset({Part.CALIBRATION})

    @property
    def label(self) -> str:
        """Step and method."""
        return f"quantize smoothquant{self.suffix}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ToolMissing: when NNCF is not installed.
            ConfigError: when ``exclude`` names nodes that are not there.
            ParityError: when NNCF fails on this graph or data.
        """
        import onnx

        os.environ["NNCF_CI"] = "1"  # switches its telemetry off
        nncf = require("nncf", extra="smooth", purpose=self.label)
        batches = context.data.calibration()
        proto = onnx.load(artifact.file)
        excluded = self.excluded(proto, artifact.facts)
        path = context.folder / MODEL_FILE
        with running(self.label, "NNCF", hint="Leave this candidate out, or exclude nodes."):
            nncf.set_log_level(logging.ERROR)
            onnx.save(self._quantized(nncf, proto, batches, excluded), path)
        return self.finished(
            artifact,
            path,
            excluded=excluded,
            calibration="minmax",
            calibration_samples=calibration.sample_count(batches),
        )

    def _quantized(
        self, nncf: Any, proto: onnx.ModelProto, batches: list[Any], excluded: list[str]
    ) -> onnx.ModelProto:
        """What NNCF makes of the model."""
        import onnxruntime
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
        )

        onnxruntime.set_default_logger_severity(3)
        convolution = -1.0  # NNCF's own default: smoothing convolutions costs accuracy
        advanced = AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(
                convolution=convolution, matmul=self.alpha
            ),
        )
        is_transformer = self.architecture == "transformer" or (
            self.architecture == "auto" and _looks_like_transformer(proto)
        )
        result: onnx.ModelProto = nncf.quantize(
            proto,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=excluded, validate=False) if excluded else None,
            advanced_parameters=advanced,
        )
        if self.signed:
            make_signed(result)
        return result


def make_signed(proto: onnx.ModelProto) -> int:
    """Turn U8 activations with zero point 0 into S8 over the same range, in place.

    NNCF takes them after a ReLU, and cannot be told otherwise. 255 steps become 127.

    Returns:
        How many there were.
    """
    readers = qdq.readers(proto)
    changed = 0
    for node in [one for one in proto.graph.node if one.op_type == "QuantizeLinear"]:
        zero, scale = (qdq.constant(proto, name) for name in (node.input[2], node.input[1]))
        if zero is None or scale is None or zero.dtype != np.uint8 or zero.any():
            continue
        wider = qdq.add_constant(proto, f"{node.input[1]}_s8", scale * (255 / 127))
        name = qdq.add_constant(proto, f"{node.input[2]}_s8", zero.astype(np.int8))
        for one in (node, *readers.get(node.output[0], [])):
            one.input[1], one.input[2] = wider, name
        changed += 1
    if changed:
        qdq.drop_unused(proto)
        del proto.graph.value_info[:]
    return changed


def _looks_like_transformer(proto: onnx.ModelProto) -> bool:
    """Whether the graph has the two operators that all transformers share."""
    kinds = {node.op_type for node in proto.graph.node}
    return bool(kinds & {"Softmax", "Attention"}) and "LayerNormalization" in kinds
