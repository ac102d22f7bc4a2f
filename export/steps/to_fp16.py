"""ONNX → float16 where it is safe, by ModelOpt's AutoCast. For TensorRT: on a CPU it is slower."""

from __future__ import annotations

import logging
import re
from typing import ClassVar

import numpy as np
from pydantic import Field

from export.optional import require
from export.steps.base import Artifact, Context, Form, Step
from export.steps.onnx_file import as_one_file
from export.steps.quantize.method import running
from export.steps.to_onnx import MODEL_FILE


class ToFp16(Step):
    """Cast weights and arithmetic to float16; inputs and outputs keep their types."""

    name: ClassVar[str] = "to_fp16"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "nvidia-modelopt")

    exclude: tuple[str, ...] = Field(
        default=(), description="Names of graph nodes to keep in float32."
    )
    data_max: float = Field(
        default=512.0,
        gt=0,
        description="Nodes with larger inputs or outputs, on an example batch, stay in float32.",
    )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The file in float16.

        Raises:
            ToolMissing: when ModelOpt, or a package that it imports, is not installed.
            ParityError: when AutoCast fails on this graph.
        """
        import onnx

        tool = require("modelopt.onnx.autocast", extra="nvidia", purpose=self.name)
        axes = {name: axis.example for name, axis in context.recipe.model.axes.items()}
        sample = context.scratch / "sample.npz"
        context.scratch.mkdir(parents=True, exist_ok=True)
        batch = context.data.examples({"batch": 2, **axes})
        np.savez(sample, allow_pickle=False, **batch)
        path = context.folder / MODEL_FILE
        with running(self.name, "ModelOpt's AutoCast", hint="Exclude the nodes at fault."):
            logging.getLogger("modelopt").setLevel(logging.ERROR)
            proto = tool.convert_to_mixed_precision(
                str(as_one_file(artifact.file, context.scratch, step=self.name)),
                low_precision_type="fp16",
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in self.exclude],
                data_max=self.data_max,
                # A lookup computes nothing, but its row numbers are larger than data_max.
                op_types_to_include=["Gather"],
                keep_io_types=True,
                calibration_data=str(sample),
            )
            onnx.save(proto, path)
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, "float_type": "fp16"})
