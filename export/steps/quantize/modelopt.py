"""Q/DQ by NVIDIA's ModelOpt: the placement that TensorRT likes best, symmetric INT8."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from conch.errors import ParityError
from conch.units import Duration
from export.optional import require
from export.steps.base import Artifact, Context, Part
from export.steps.onnx_file import save_whole
from export.steps.quantize import calibration
from export.steps.quantize.method import QuantizeMethod
from export.steps.to_onnx import MODEL_FILE
from export.tensorrt import process

RUNNER = Path(__file__).with_name("modelopt_runner.py")


class ModelOptQdq(QuantizeMethod):
    """ModelOpt's INT8, with ranges by entropy or by the largest value."""

    packages: ClassVar[tuple[str, ...]] = (
        "onnx",
        "onnxruntime",
        "nvidia-modelopt",
        "onnx-graphsurgeon",
    )

    method: Literal["modelopt"] = Field(
        description="INT8 as NVIDIA's ModelOpt places it; needs the extra `nvidia`."
    )
    calibration: Literal["max", "entropy"] = Field(
        default="max",
        description="How a range is taken from the data; `entropy` falls back to `max` where "
        "ModelOpt fails on it, and needs batches of one shape.",
    )
    float_type: Literal["fp32", "fp16"] = Field(
        default="fp32", description="Type of what is not quantized; `fp16` is for the GPU only."
    )

    timeout: Duration = Field(
        default=3600.0,
        gt=0,
        le=86_400,
        description="An attempt that takes longer counts as failed.",
    )

    @property
    def uses(self) -> frozenset[Part]:
        """Calibration data."""
        return frozenset({Part.CALIBRATION})

    @property
    def label(self) -> str:
        """Step, method, and what is not the default."""
        how = "" if self.calibration == "max" else f" {self.calibration}"
        rest = "" if self.float_type == "fp32" else f" {self.float_type}"
        return f"quantize modelopt{how}{rest}{self.suffix}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The quantized file.

        Raises:
            ToolMissing: when ModelOpt, or a package that it imports, is not installed.
            ConfigError: when ``exclude`` names nodes that are not there, or the calibration data
                is of unequal shapes.
            ParityError: when ModelOpt fails on this graph or data.
        """
        import onnx

        batches = context.data.calibration()
        require("modelopt.onnx.quantization", extra="nvidia", purpose=self.label)
        excluded = self.excluded(onnx.load(artifact.file), artifact.facts)
        path = context.folder / MODEL_FILE
        used = self._attempt(artifact.file, path, batches, excluded, context.scratch)
        return self.finished(
            artifact,
            path,
            excluded=excluded,
            calibration=used,
            calibration_samples=calibration.sample_count(batches),
        )

    def _attempt(
        self,
        source: Path,
        target: Path,
        batches: list[dict[str, NDArray[Any]]],
        excluded: list[str],
        scratch: Path,
    ) -> str:
        """Write the quantized file; gives the calibration that worked."""
        failed = ""
        joined = calibration.joined(calibration.of_one_shape(batches, purpose=self.label))
        for used in dict.fromkeys((self.calibration, "max")):
            # It writes intermediate files beside its input and its output.
            folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{used}-"))
            given, result = folder / MODEL_FILE, folder / "quantized.onnx"
            save_whole(source, given, step=self.label)
            data = folder / "calibration.npz"
            np.savez(data, allow_pickle=False, **joined)
            failed = _quantize(
                timeout_s=self.timeout,
                onnx_path=str(given),
                output_path=str(result),
                quantize_mode="int8",
                calibration_data=str(data),
                calibration_method=used,
                calibration_eps=["cpu"],
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in excluded],
                high_precision_dtype=self.float_type,
                dq_only=True,  # else it keeps float weights: no byte is saved
                log_level="ERROR",
            )
            if not failed and result.is_file():
                shutil.move(result, target)
                return used
            shutil.rmtree(folder)
        raise ParityError(
            f"{self.label}: ModelOpt failed ({failed or 'it wrote no file'}).",
            hint="Leave this candidate out.",
        )


def _quantize(*, timeout_s: float, **request: Any) -> str:
    """Have ModelOpt do it, in a process of its own; why it failed, or nothing."""
    outcome = process.run(request, timeout_s=timeout_s, runner=RUNNER)
    return str(outcome.values.get("error", outcome.ended))
