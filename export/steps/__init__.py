"""The steps a recipe can name. To add one: its class in a file here, and one field of StepSpec."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from conch.config_file import FileModel
from export.steps.base import Artifact, Batch, Context, Form, NonEmpty, Part, Step, resized
from export.steps.distill import Distill
from export.steps.finetune import Finetune
from export.steps.prune import Prune
from export.steps.qat import Qat
from export.steps.quantize import Quantize
from export.steps.rank_layers import RankLayers
from export.steps.reencode import Reencode
from export.steps.search import Search
from export.steps.slim import Slim
from export.steps.sparsify import Sparsify
from export.steps.to_fp16 import ToFp16
from export.steps.to_onnx import ToOnnx
from export.steps.to_tensorrt import ToTensorrt

__all__ = [
    "Artifact",
    "Batch",
    "Context",
    "Form",
    "NonEmpty",
    "Part",
    "Step",
    "StepSpec",
    "resized",
]


class StepSpec(FileModel):
    """One step of a variant: exactly one of these keys."""

    prune: Prune | None = Field(
        default=None,
        description="Take out whole channels, smaller in every runtime; finetune or distill must "
        "follow.",
    )
    sparsify: Sparsify | None = Field(
        default=None,
        description="2:4 sparsity: faster in TensorRT on GPUs only, no gain on a CPU. finetune or "
        "distill should follow, and keep the zeros.",
    )
    finetune: Finetune | None = Field(default=None, description="Train on labelled data.")
    distill: Distill | None = Field(
        default=None, description="Train towards the original's outputs; needs no labels."
    )
    qat: Qat | None = Field(
        default=None,
        description="Train with 8-bit rounding, for models that `quantize` alone breaks; "
        "quantize must still follow.",
    )
    to_onnx: ToOnnx | None = Field(
        default=None, description="Export with torch's dynamo exporter, then check the file."
    )
    slim: Slim | None = Field(
        default=None, description="Clean the graph up with onnxslim; outputs stay equal."
    )
    rank_layers: RankLayers | None = Field(
        default=None,
        description="Measure what 8-bit rounding of each layer alone does to the outputs; the "
        "model stays as it is. For the report, and for `quantize.exclude_sensitive`.",
    )
    quantize: Quantize | None = Field(default=None, description="8-bit weights and arithmetic.")
    reencode: Reencode | None = Field(
        default=None,
        description="After a symmetric `quantize`: the same codes as the CPU is fast on, U8 with "
        "zero point 128.",
    )
    to_fp16: ToFp16 | None = Field(
        default=None, description="Half precision for GPUs; on a CPU it is slower."
    )
    to_tensorrt: ToTensorrt | None = Field(
        default=None,
        description="For Triton's TensorRT backend: the graph, how a host with a GPU builds the "
        "engine, and whether TensorRT's parser and builder take it. The last step.",
    )
    search: Search | None = Field(
        default=None,
        description="Try several ways to quantize and take the best that passes all gates. The "
        "last step; with target `tensorrt` it ends in `to_tensorrt`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        """``to_onnx`` alone is ``to_onnx`` with default options, and so is ``to_onnx: null``."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {key: {} if options is None else options for key, options in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        named = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(
                f"names {len(named)} steps ({', '.join(named) or 'none'}), must name exactly one; "
                "start each step with its own dash"
            )
        return self

    @property
    def step(self) -> Step:
        """The step that this entry names."""
        step: Step = next(filter(None, (getattr(self, key) for key in type(self).model_fields)))
        return step
