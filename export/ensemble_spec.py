"""The ``ensembles`` section of a recipe: raw input in, finished answer out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from conch.config_file import FileModel
from export.source_spec import DiskPath
from export.steps.base import NonEmpty

TOKENS_SUFFIX = "tokens"
PIXELS_SUFFIX = "pixels"
LABELS_SUFFIX = "labels"

Positive = Annotated[int, Field(ge=1)]
Dims = tuple[int | str, ...]
"""Sizes without the batch axis; a word is an axis of the recipe."""


class TextInput(FileModel):
    """Text to token ids, by a `tokenizer.json` of the package tokenizers."""

    tokenizer: DiskPath = Field(
        description="The `tokenizer.json`: beside the recipe, absolute, or `package:NAME/path`."
    )
    max_tokens: Positive = Field(
        default=128, description="Most tokens of a text, markers included."
    )
    truncate: bool = Field(
        default=False,
        description="Cut a longer text. By default it is refused, so that nobody gets the answer "
        "to half of a question unawares.",
    )
    pad_to: Annotated[tuple[Positive, ...], NonEmpty] = Field(
        default=(16, 32, 64, 128),
        description="Lengths to pad to, the last one `max_tokens`. Triton joins only requests of "
        "equal length into a batch: few lengths batch well, many lengths waste little padding.",
    )
    ids: str = Field(default="input_ids", description="The model's input that takes the ids.")
    mask: str | None = Field(
        default="attention_mask",
        description="Its input that is 1 for tokens and 0 for padding; `null` when it has none.",
    )
    types: str | None = Field(
        default=None, description="Its input of segment ids (`token_type_ids`), if it has one."
    )

    @property
    def inputs(self) -> dict[str, str]:
        """What each of the model's inputs gets: ``ids``, ``mask`` or ``types``."""
        named = {"ids": self.ids, "mask": self.mask, "types": self.types}
        return {name: what for what, name in named.items() if name is not None}

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if list(self.pad_to) != sorted(set(self.pad_to)) or self.pad_to[-1] != self.max_tokens:
            raise ValueError(
                f"pad_to is {list(self.pad_to)}, must ascend and end with max_tokens "
                f"({self.max_tokens})"
            )
        return self


class ImageInput(FileModel):
    """PNG or JPEG bytes to a tensor; size and colours are those of the model's input."""

    input: str | None = Field(
        default=None, description="The model's input; needed only when it has several."
    )
    layout: Literal["chw", "hwc"] = Field(
        default="chw", description="Whether channels come before or after height and width."
    )
    resize: Literal["stretch", "crop", "refuse"] = Field(
        default="stretch",
        description="What to do with other sizes: scale each side, scale and crop the middle, or "
        "refuse. Bilinear, as Pillow does it.",
    )
    scale: float = Field(default=1 / 255, gt=0, description="Pixel values (0-255) times this.")
    mean: tuple[float, ...] = Field(
        default=(0.0,), description="Then less this: one number, or one for each channel."
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(1.0,), description="Then divided by this, likewise."
    )
    max_pixels: Positive = Field(
        default=50_000_000, description="Larger images are refused before they are decoded."
    )


class LabelOutput(FileModel):
    """Scores to the names of the best classes."""

    file: DiskPath = Field(description="Names of the classes, one a line, in the model's order.")
    output: str | None = Field(
        default=None, description="The model's output of scores; needed only when it has several."
    )
    softmax: bool = Field(
        default=True, description="Turn scores into probabilities; `false` gives them as they are."
    )
    top: Positive = Field(default=1, description="How many classes to name, best first.")


def _as_tuple(value: object) -> object:
    """One name is a list of one."""
    return (value,) if isinstance(value, str) else value


class Ensemble(FileModel):
    """A pipeline in the server: one request from raw input to answer."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$",
        description="What clients call; its parts are `<name>_tokens`, `<name>_pixels` and "
        "`<name>_labels`.",
    )
    model: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), NonEmpty] = Field(
        description="The variant in the middle, or several: the first of them that is published "
        "is taken. Without any the ensemble is left out."
    )
    text: TextInput | None = Field(default=None, description="Text comes in.")
    image: ImageInput | None = Field(default=None, description="Image files come in.")
    labels: LabelOutput | None = Field(
        default=None, description="Class names go out; by default the model's outputs do."
    )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the models that are published for it besides the variant's."""
        kinds = (
            (self.text, TOKENS_SUFFIX),
            (self.image, PIXELS_SUFFIX),
            (self.labels, LABELS_SUFFIX),
        )
        return tuple(f"{self.name}_{suffix}" for kind, suffix in kinds if kind is not None)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("must have exactly one of text and image")
        return self

    def check_served(self, served: str) -> None:
        """Refuse a variant that does not answer: one version of the model is served.

        Raises:
            ValueError: when the served variant is not among those that are named.
        """
        if served not in self.model:
            raise ValueError(
                f"ensembles: {self.name}.model is {', '.join(self.model)}, but with `layout: "
                f"versions` the served variant answers, which is {served}; name it, or set "
                f"serving.served: {self.model[0]}"
            )

    def check_against(
        self,
        inputs: Mapping[str, tuple[str, Dims]],
        outputs: Mapping[str, tuple[str, Dims]],
        variants: Sequence[str],
    ) -> None:
        """Refuse what the model cannot take or give.

        Args:
            inputs: the model's inputs, name → (dtype, dims).
            outputs: its outputs, likewise.
            variants: names of the variants that the recipe publishes as ONNX.

        Raises:
            ValueError: with the key, the value seen and what is allowed.
        """
        where = f"ensembles: {self.name}"
        for name in self.model:
            if name not in variants:
                raise ValueError(
                    f"{where}.model is {name}, variants to publish are {', '.join(variants)}"
                )
        if self.text is not None and set(self.text.inputs) != set(inputs):
            raise ValueError(
                f"{where}.text fills {', '.join(self.text.inputs)}, "
                f"the model's inputs are {', '.join(inputs)}; set ids, mask and types"
            )
        for name in self.text.inputs if self.text else ():
            dtype, dims = inputs[name]
            if dtype not in ("int32", "int64") or len(dims) != 1 or not isinstance(dims[0], str):
                raise ValueError(
                    f"{where}.text: input {name} is {dtype} {list(dims)}, "
                    "must be int32 or int64 with one axis of varying size"
                )
        if self.image is not None:
            self._check_image(self.image, inputs, where)
        if self.labels is not None:
            name = _only(self.labels.output, outputs, f"{where}.labels.output")
            _, dims = outputs[name]
            if len(dims) != 1 or isinstance(dims[0], str) or dims[0] < self.labels.top:
                raise ValueError(
                    f"{where}.labels: output {name} has dims {list(dims)}, "
                    f"must be one axis of at least {self.labels.top} classes"
                )

    @staticmethod
    def _check_image(image: ImageInput, inputs: Mapping[str, tuple[str, Dims]], where: str) -> None:
        name = _only(image.input, inputs, f"{where}.image.input")
        if len(inputs) > 1:
            raise ValueError(f"{where}.image: the model has {len(inputs)} inputs, must have one")
        dtype, dims = inputs[name]
        axis = 0 if image.layout == "chw" else 2
        if len(dims) != 3 or any(isinstance(d, str) for d in dims) or dims[axis] not in (1, 3):
            raise ValueError(
                f"{where}.image: input {name} has dims {list(dims)}, must be "
                f"{'[1 or 3, height, width]' if axis == 0 else '[height, width, 1 or 3]'}"
            )
        if dtype not in ("float32", "float16", "uint8"):
            raise ValueError(
                f"{where}.image: input {name} is {dtype}, must be float32, float16 or uint8"
            )
        if dtype == "uint8" and {"scale", "mean", "std"} & image.model_fields_set:
            raise ValueError(f"{where}.image: input {name} is uint8, it takes pixels as they are")
        for key, values in (("mean", image.mean), ("std", image.std)):
            if len(values) not in (1, dims[axis]):
                raise ValueError(
                    f"{where}.image.{key} has {len(values)} numbers, must have 1 or {dims[axis]}"
                )


def _only(given: str | None, known: Mapping[str, object], key: str) -> str:
    """The tensor that is named, or the only one there is."""
    if given is None and len(known) == 1:
        return next(iter(known))
    if given is None or given not in known:
        raise ValueError(f"{key} is {given}, must be one of {', '.join(known)}")
    return given
