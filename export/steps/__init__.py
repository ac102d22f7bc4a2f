"""The steps a recipe can name. To add one: its class in a file here, and one field of StepSpec."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from conch.config_file import FileModel
from export.steps.base import Artifact, Batch, Context, Form, NonEmpty, Part, Step, resized
from export.steps.quantize import DynamicInt8, StaticQdq
from export.steps.to_onnx import ToOnnx

__all__ = ["Artifact", "Batch", "Context", "Form", "NonEmpty", "Part", "Step", "StepSpec", "resized"]


class StepSpec(FileModel):
    """One step of a variant: exactly one of these keys."""

    to_onnx: ToOnnx | None = Field(
        default=None, description="Export with torch's dynamo exporter, then check the file."
    )
    quantize: Annotated[DynamicInt8 | StaticQdq, Field(discriminator="method")] | None = Field(
        default=None, description="8-bit weights and arithmetic."
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
