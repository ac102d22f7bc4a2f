"""The part of a recipe's ``model`` that says where the original comes from. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from conch.config_file import FileModel
from export.gates import Reference
from export.steps.base import Form

PACKAGE = "package:"
KINDS = ("factory", "program", "onnx", "huggingface")


def _path(text: str) -> str:
    """A path on disk, or ``package:NAME/inside`` with a path that stays inside."""
    if not text.startswith(PACKAGE):
        if not text.strip():
            raise ValueError("must be a path")
        return text
    name, _, inside = text.removeprefix(PACKAGE).partition("/")
    if not name.isidentifier() or not inside or ".." in PurePosixPath(inside).parts:
        raise ValueError("must be package:NAME/path/inside, with the import name of the package")
    return text


def _ending(suffix: str) -> AfterValidator:
    """Refuse files that do not end so."""

    def check(text: str) -> str:
        if not text.endswith(suffix):
            raise ValueError(f"must end in {suffix}")
        return text

    return AfterValidator(check)


DiskPath = Annotated[str, AfterValidator(_path)]
"""Relative to the recipe, absolute, or ``package:NAME/path/inside`` an installed package."""


class HuggingFace(FileModel):
    """A model that ``save_pretrained`` wrote; it is read from disk, never from a network."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=False, serialize_by_alias=True
    )

    folder: DiskPath = Field(
        description="The folder with `config.json` and the weights: `model.safetensors`, or "
        "`pytorch_model.bin` with plain tensors. `package:NAME/path` is inside an installed one."
    )
    auto_class: str = Field(
        alias="class",
        default="AutoModel",
        pattern=r"^AutoModel\w*$",
        description="A class of transformers, e.g. `AutoModelForSequenceClassification`. Inputs "
        "are named as the arguments of its `forward`.",
    )
    output: str = Field(
        default="last_hidden_state",
        pattern=r"^[a-z_]\w*$",
        description="What to take of all that the model returns, e.g. `logits`.",
    )
    pooling: Literal["none", "mean", "cls"] = Field(
        default="none",
        description="One vector from the vectors of all tokens: `mean` over the real ones (those "
        "that `attention_mask` has), or `cls`, the first.",
    )
    normalize: bool = Field(default=False, description="Scale each vector to length 1.")


class SourceFields(FileModel):
    """The original: exactly one of ``factory``, ``program``, ``onnx`` and ``huggingface``."""

    factory: Reference | None = Field(
        default=None,
        description="Function without arguments that gives a `torch.nn.Module`: "
        "`FILE.py:FUNCTION` beside the recipe, or `PACKAGE.MODULE:FUNCTION`.",
    )
    program: Annotated[DiskPath, _ending(".pt2")] | None = Field(
        default=None,
        description="File of `torch.export.save`, exported with a dynamic batch axis. Like any "
        "PyTorch program it can run code when it is loaded: take it from people you trust.",
    )
    onnx: Annotated[DiskPath, _ending(".onnx")] | None = Field(
        default=None,
        description="ONNX file with a dynamic batch axis; inputs and outputs are named as in it. "
        "Variants start from the file, without `to_onnx`.",
    )
    huggingface: HuggingFace | None = Field(
        default=None, description="Folder of a Hugging Face model on disk."
    )
    files: tuple[DiskPath, ...] = Field(
        default=(),
        description="Further files or folders that decide what the original is, such as weights "
        "that the factory reads: when one changes, everything is built anew.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(named) != 1:
            raise ValueError(
                f"names {' and '.join(named) or 'no source'}, "
                f"must name exactly one of {', '.join(KINDS)}"
            )
        return self

    @property
    def kind(self) -> str:
        """The key of the source: ``factory``, ``program``, ``onnx`` or ``huggingface``."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def form(self) -> Form:
        """The form that a chain of steps starts from."""
        return Form.ONNX if self.onnx is not None else Form.TORCH


def initial_form(model: SourceFields) -> Form:
    """The form that the chain of steps of this model starts from."""
    return model.form
