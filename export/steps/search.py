"""``search`` as the last entry of a variant's steps: several ways to quantize, one result.

Only the options are here. ``export.search`` says which chains of steps they stand for, and which of
the finished ones is taken; the search itself never runs as a step.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from export.steps.base import Artifact, Context, Form, NonEmpty, Part, Step
from export.steps.quantize import DynamicInt8, Quantize, StaticQdq

CandidateName = Literal["dynamic", "static_u8", "static_s8", "smoothquant", "modelopt", "fp16"]
Calibration = Literal["minmax", "entropy", "percentile"]
NEEDS_CALIBRATION = frozenset({"static_u8", "static_s8", "smoothquant", "modelopt"})


class Search(Step):
    """Which candidates to try, and which of those that pass the gates to take."""

    name: ClassVar[str] = "search"
    takes: ClassVar[Form] = Form.ONNX

    target: Literal["cpu", "tensorrt"] = Field(
        default="cpu",
        description="`cpu`: symmetric candidates are re-encoded to U8; `tensorrt`: no zero points, "
        "no int32 biases, and `to_tensorrt` comes last.",
    )
    candidates: Annotated[tuple[CandidateName | Quantize, ...], NonEmpty] = Field(
        default=("smoothquant", "static_u8", "dynamic"),
        description="Names, or the options of a `quantize` step. One whose tool is not installed "
        "is skipped with a line.",
    )
    exclude_sensitive: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NonEmpty] = Field(
        default=(0,),
        description="Try each candidate (but fp16) with this many of the most sensitive layers "
        "kept in float; above 0 the layers are ranked first.",
    )
    calibrations: Annotated[tuple[Calibration, ...], NonEmpty] = Field(
        default=("minmax",),
        description="Try named static candidates with each of these ways to take a range from the "
        "data. ModelOpt has no percentile; SmoothQuant always takes minmax.",
    )
    prefer: Literal["latency", "size", "fidelity"] = Field(
        default="latency",
        description="Of the candidates that pass all gates take the fastest on this machine's CPU, "
        "the smallest, or the truest. Latency is unknown for `tensorrt`: there the smallest.",
    )

    @field_validator("candidates", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        names = get_args(CandidateName)
        for one in given if isinstance(given, list | tuple) else ():
            if isinstance(one, str) and one not in names:
                close = difflib.get_close_matches(one, names, n=1)
                raise ValueError(
                    f"{one!r} is no candidate"
                    + (f"; did you mean {close[0]!r}?" if close else "")
                    + f" Known are {', '.join(names)}, and the options of a quantize step"
                )
        return given

    @property
    def gives(self) -> Form:  # type: ignore[override]
        """ONNX, or TensorRT's form when that is the target."""
        return Form.TENSORRT if self.target == "tensorrt" else Form.ONNX

    @property
    def uses(self) -> frozenset[Part]:
        """Calibration data, when a candidate or the ranking of layers needs it."""
        needing = any(self.exclude_sensitive) or any(
            one in NEEDS_CALIBRATION if isinstance(one, str) else bool(one.uses)
            for one in self.candidates
        )
        return frozenset({Part.CALIBRATION}) if needing else frozenset()

    @property
    def label(self) -> str:
        """What is searched."""
        return f"search {self.target}"

    @field_validator("candidates", mode="before")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        """Refuse a candidate that is written twice: names must tell candidates apart."""
        if isinstance(value, list | tuple):
            twice = [one for index, one in enumerate(value) if one in value[:index]]
            if twice:
                raise ValueError(f"{twice[0]} is there twice")
        return value

    @model_validator(mode="after")
    def _fits_target(self) -> Self:
        """Refuse candidates that TensorRT takes in no case."""
        if self.target == "tensorrt":
            refused = [
                one if isinstance(one, str) else one.label
                for one in self.candidates
                if one in ("dynamic", "static_u8")
                or isinstance(one, DynamicInt8)
                or (isinstance(one, StaticQdq) and one.activations == "u8")
            ]
            if refused:
                raise ValueError(
                    f"candidates: TensorRT takes no {', '.join(refused)}; it needs symmetric S8: "
                    "smoothquant, static_s8 or modelopt, or fp16"
                )
        return self

    def run(self, artifact: Artifact, context: Context) -> Artifact:  # noqa: ARG002
        """Never: the plan runs its candidates instead."""
        raise AssertionError("a search is expanded into its candidates before anything runs")
