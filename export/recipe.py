"""The recipe: what a user writes to say which model to shrink, how, and when to refuse the result.

Every field is described here once; ``docs/reference/recipe.md`` is made from these descriptions.
Imports no torch: ``conch export plan`` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from conch import config_file
from conch.config_file import FileModel
from conch.errors import ConfigError
from conch.names import model_name
from export import chains
from export.ensemble_spec import Ensemble
from export.gates import Gates, Reference
from export.serving_spec import Serving
from export.source_spec import DiskPath, SourceFields, initial_form
from export.steps import Form, NonEmpty, Part, StepSpec

DType = Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def _safe_name(text: str) -> str:
    """A name that may become a folder and a part of a URL."""
    try:
        return model_name(text)
    except ConfigError as error:
        raise ValueError(error.message.rstrip(".")) from None


def _dimension(value: object) -> object:
    """A size: a whole number, or a word for one that varies."""
    is_size = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if is_size or (isinstance(value, str) and value.isidentifier()):
        return value
    raise ValueError("must be a whole number from 1 on, or the name of an axis")


SafeName = Annotated[str, AfterValidator(_safe_name)]
Dimension = Annotated[int | str, BeforeValidator(_dimension)]

BASELINE = "baseline"
"""The plain export's name in figures when no variant of the recipe is just that."""


class Axis(FileModel):
    """A size that differs from request to request."""

    min: int = Field(default=1, ge=1, description="Smallest size, inclusive.")
    max: int = Field(ge=1, description="Largest size, inclusive.")
    example: int = Field(
        ge=1, description="A typical size: latency and the server's warm-up use it."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.example <= self.max:
            raise ValueError(f"example {self.example} must lie in {self.min} to {self.max}")
        return self


class Tensor(FileModel):
    """One input or output. The batch axis comes first and is not written down."""

    name: str = Field(pattern=r"^[A-Za-z_][\w.]*$", description="Its name in ONNX and in Triton.")
    dtype: DType = Field(description="Type of an entry, in numpy's words.")
    dims: tuple[Dimension, ...] = Field(
        description="Sizes without the batch axis; a word is a name from `model.axes`."
    )


class Model(SourceFields):
    """The original model."""

    name: SafeName = Field(description="Variants are published as `<name>_<variant>`.")
    axes: dict[str, Axis] = Field(
        default_factory=dict, description="Sizes, besides the batch, that differ by request."
    )
    inputs: Annotated[tuple[Tensor, ...], NonEmpty] = Field(
        description="In the order of the arguments of `forward`."
    )
    outputs: Annotated[tuple[Tensor, ...], NonEmpty] = Field(
        description="In the order in which `forward` returns them."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tensors = (*self.inputs, *self.outputs)
        names = [tensor.name for tensor in tensors]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"inputs and outputs share the name {', '.join(twice)}")
        used = {dim for tensor in tensors for dim in tensor.dims if isinstance(dim, str)}
        if unknown := sorted(used - set(self.axes)):
            raise ValueError(f"axes has no {', '.join(unknown)}, which dims names")
        if "batch" in self.axes:
            raise ValueError("axes.batch is implied; its bound is serving.max_batch_size")
        return self


class Data(FileModel):
    """Real data. Each function gives a list of batches: `{input name: array [batch, ...]}`."""

    calibration: Reference | None = Field(
        default=None, description="Data that static quantization takes its ranges from."
    )
    evaluation: Reference | None = Field(
        default=None,
        description="Data that gates and parity are measured on; "
        "none of it should be in the calibration data.",
    )
    training: Reference | None = Field(
        default=None,
        description="Data to train on, for finetune, distill and the recovery after prune; labels, "
        "where there are any, under the key `target`.",
    )
    files: tuple[DiskPath, ...] = Field(
        default=(),
        description="Files or folders that the recipe's code reads, such as a CSV file beside it: "
        "when one changes, everything is built anew. Code itself counts without being named.",
    )
    environment: tuple[str, ...] = Field(
        default=(),
        description="Environment variables that the recipe's code reads; their values count as "
        "its input, so another value builds anew.",
    )


class Variant(FileModel):
    """One way to shrink the model."""

    name: SafeName = Field(description="What follows `<model.name>_` in the published name.")
    steps: tuple[StepSpec, ...] = Field(
        description="In order; each is a name, or a name with options. An ONNX source may have "
        "none: it is served as it is."
    )
    gates: Gates | None = Field(
        default=None, description="Keys named here replace those of the recipe's gates."
    )
    publish: bool = Field(
        default=True, description="`false` builds and judges it, for comparison only."
    )

    @property
    def labels(self) -> tuple[str, ...]:
        """How progress and reports call the steps."""
        return tuple(spec.step.label for spec in self.steps)


class Measure(FileModel):
    """How latency is measured: all variants in turn, in one process, round after round."""

    batches: Annotated[tuple[Annotated[int, Field(ge=1)], ...], NonEmpty] = Field(
        default=(1, 8), description="Batch sizes; axes are at their example sizes."
    )
    rounds: int = Field(default=9, ge=3, le=1000, description="Rounds; medians are reported.")
    axes: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Sizes of axes to time at, where they are not the example sizes.",
    )


class Recipe(FileModel):
    """A recipe: one model, its data, its variants and the gates they must pass."""

    version: Literal[1] = Field(description="Version of this format.")
    seed: int = Field(default=0, ge=0, description="Seeds Python, numpy and torch before each use.")
    model: Model = Field(description="The original.")
    data: Data = Field(default_factory=Data, description="Where real data comes from.")
    variants: Annotated[tuple[Variant, ...], NonEmpty] = Field(
        description="What to make of the original."
    )
    gates: Gates = Field(default_factory=Gates, description="What every variant must pass.")
    serving: Serving = Field(default_factory=Serving, description="How Triton is to serve it.")
    ensembles: tuple[Ensemble, ...] = Field(
        default=(), description="Pipelines around a variant: text or image in, answer out."
    )
    measure: Measure = Field(default_factory=Measure, description="How latency is measured.")
    publish: Literal["pareto", "accepted"] = Field(
        default="pareto",
        description="`pareto`: of the variants that pass their gates, only those that no other "
        "beats in quality, size and latency at once; `accepted`: all that pass.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [variant.name for variant in self.variants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two variants are called {', '.join(twice)}")
        for variant in self.variants:
            if variant.name == BASELINE:
                raise ValueError(
                    f"a variant is called {BASELINE}, as the plain export is in reports; "
                    "choose another name"
                )
            self._check_published_name(variant)
            self._check_steps(variant)
            self._check_gates(variant)
        self._check_serving()
        self._check_measured_axes()
        return self

    @property
    def latency_batches(self) -> tuple[int, ...]:
        """The batch sizes to time, ascending; none above what is served."""
        largest = self.serving.max_batch_size
        return tuple(sorted({min(batch, largest) for batch in self.measure.batches}))

    def gates_of(self, variant: Variant) -> Gates:
        """The gates of one variant: its own keys over the recipe's."""
        if variant.gates is None:
            return self.gates
        own = {key: getattr(variant.gates, key) for key in variant.gates.model_fields_set}
        return self.gates.model_copy(update=own)

    def published_name(self, variant: Variant) -> str:
        """The name of the variant in the model repository; as a version, that of the model."""
        if self.serving.layout == "versions" and self.target_of(variant) is Form.ONNX:
            return self.model.name
        return f"{self.model.name}_{variant.name}"

    @property
    def initial_form(self) -> Form:
        """The form of the original."""
        return initial_form(self.model)

    def target_of(self, variant: Variant) -> Form:
        """The form in which the variant is served: ``onnx`` or ``tensorrt``."""
        return chains.end_form(variant.steps, self.initial_form)

    @property
    def version_variants(self) -> tuple[str, ...]:
        """Names of the published variants that can be versions of one model: those in ONNX."""
        return tuple(
            one.name for one in self.variants if one.publish and self.target_of(one) is Form.ONNX
        )

    @property
    def references(self) -> tuple[str, ...]:
        """Every function that the recipe names."""
        tasks = [self.gates_of(variant).task for variant in self.variants]
        named = [self.model.factory, *(getattr(self.data, part) for part in Part)]
        named += [task.metric for task in tasks if task is not None]
        for variant in self.variants:
            for spec in variant.steps:
                named += spec.step.references
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs that are served; an ONNX source may have more."""
        return tuple(tensor.name for tensor in self.model.outputs)

    def example_dims(self, tensor: Tensor) -> tuple[int, ...]:
        """The tensor's sizes without the batch axis, symbolic ones at their example size."""
        return tuple(
            self.model.axes[dim].example if isinstance(dim, str) else dim for dim in tensor.dims
        )

    def _check_measured_axes(self) -> None:
        for name, size in self.measure.axes.items():
            axis = self.model.axes.get(name)
            if axis is None:
                raise ValueError(f"measure.axes names {name}, which model.axes does not have")
            if not axis.min <= size <= axis.max:
                raise ValueError(
                    f"measure.axes.{name} is {size}, must lie in {axis.min} to {axis.max}"
                )

    def _check_published_name(self, variant: Variant) -> None:
        try:
            _safe_name(self.published_name(variant))
        except ValueError as error:
            raise ValueError(f"variant {variant.name}: published {error}") from None

    def _check_serving(self) -> None:
        inputs = {tensor.name: (tensor.dtype, tensor.dims) for tensor in self.model.inputs}
        outputs = {tensor.name: (tensor.dtype, tensor.dims) for tensor in self.model.outputs}
        known = self.version_variants
        self.serving.check_against(inputs, outputs, known)
        names = [self.published_name(variant) for variant in self.variants]
        for ensemble in self.ensembles:
            ensemble.check_against(inputs, outputs, known)
            if taken := {ensemble.name, *ensemble.parts} & set(names):
                raise ValueError(f"ensembles: the name {min(taken)} is taken")
            names += [ensemble.name, *ensemble.parts]
            if self.serving.sequence is not None:
                raise ValueError(f"ensembles: {ensemble.name}: a model with state cannot be in one")
            if self.serving.layout == "versions":
                ensemble.check_served(self.serving.served or known[0])

    def _check_steps(self, variant: Variant) -> None:
        try:
            chains.end_form(variant.steps, self.initial_form)
        except ValueError as error:
            raise ValueError(f"variant {variant.name}: {error}") from None
        for part in sorted(chains.parts_used(variant.steps)):
            if getattr(self.data, part) is None:
                raise ValueError(f"variant {variant.name} needs data.{part} for its steps")

    def _check_gates(self, variant: Variant) -> None:
        gates = self.gates_of(variant)
        needing = [key for key in ("fidelity", "task") if getattr(gates, key) is not None]
        if needing and self.data.evaluation is None:
            raise ValueError(
                f"gates.{needing[0]} needs data.evaluation; give it, or write "
                f"`gates: {{{needing[0]}: null}}` to publish unjudged"
            )
        known = [tensor.name for tensor in self.model.outputs]
        if gates.fidelity and gates.fidelity.output and gates.fidelity.output not in known:
            raise ValueError(
                f"gates.fidelity.output is {gates.fidelity.output}, outputs are {', '.join(known)}"
            )
        if gates.latency and gates.latency.batch not in self.latency_batches:
            raise ValueError(
                f"gates.latency.batch {gates.latency.batch} is not measured; measured are "
                f"{list(self.latency_batches)} (measure.batches up to serving.max_batch_size)"
            )


def load(path: Path) -> Recipe:
    """The recipe in the file.

    Raises:
        ConfigError: with every fault of the file, each with its line.
    """
    return config_file.load(path, Recipe)


def loads(text: str, *, source: str = "recipe.yaml") -> Recipe:
    """The same for text in hand."""
    return config_file.loads(text, Recipe, source=source)


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe with all defaults filled in, as JSON values."""
    return recipe.model_dump(mode="json")
