"""What a step is: typed options, the form of model it takes and gives, and ``run``.

A later step (prune, distill, to_tensorrt) is one more class in one more file of this folder.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from conch.config_file import FileModel
from conch.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from export.recipe import Recipe
    from export.source import Source

T = TypeVar("T")
Batch = Mapping[str, NDArray[Any]]


def _not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values, if there are any."""
    if not values:
        raise ValueError("must have at least 1 entry")
    return values


NonEmpty = AfterValidator(_not_empty)
"""At least one entry. (pydantic's ``min_length`` of a tuple also fires when an entry is wrong.)"""


class Form(enum.StrEnum):
    """What a model is at some point of a recipe."""

    TORCH = "torch"
    ONNX = "onnx"
    TENSORRT = "tensorrt"


class Part(enum.StrEnum):
    """A part of the recipe's data."""

    CALIBRATION = "calibration"
    EVALUATION = "evaluation"
    TRAINING = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model between two steps.

    Attributes:
        form: what it is.
        module: the PyTorch module, when the form is ``torch`` and it was just made.
        path: its file: ``module.pt`` once a ``torch`` form is stored, else the ONNX file (also for
            ``tensorrt``: the graph that the engine is built from).
        extra: further files that belong to it and are published beside it.
        facts: JSON values that the lineage and the report tell, e.g. opset and parity figures; a
            step passes on those of its input.
    """

    form: Form
    module: torch.nn.Module | None = None
    path: Path | None = None
    extra: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def torch_module(self) -> torch.nn.Module:
        """The module of the ``torch`` form, read from its file when it was made earlier."""
        if self.module is not None:
            return self.module
        if self.form is not Form.TORCH:
            raise AssertionError(f"an artifact in {self.form} form has no module")
        import torch

        try:
            # A file that Conch itself wrote into its work folder, with classes of the recipe.
            module: torch.nn.Module = torch.load(self.file, weights_only=False)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{self.file}: was stored by other code than is beside the recipe now "
                f"({error.name} is not found).",
                hint="Do not change the code during a run; run it again.",
            ) from error
        return module

    @property
    def file(self) -> Path:
        """The artifact's file."""
        if self.path is None:
            raise AssertionError(f"an artifact in {self.form} form has no file")
        return self.path


class Original(Protocol):
    """The unchanged model, the reference of every numeric check."""

    @property
    def module(self) -> torch.nn.Module:
        """It as a PyTorch module; ConfigError when the source is an ONNX file."""

    def run(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Its outputs for one batch, by the recipe's names."""


class Data(Protocol):
    """The recipe's data, each part made once, when it is first asked for."""

    def calibration(self) -> list[dict[str, NDArray[Any]]]:
        """The calibration batches."""

    def evaluation(self) -> list[dict[str, NDArray[Any]]]:
        """The evaluation batches."""

    def training(self) -> list[dict[str, NDArray[Any]]]:
        """The training batches; labels, where there are any, under the key ``target``."""

    def examples(self, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Real (or, without data, synthetic) inputs of exactly these sizes of batch and axes."""


class Tell(Protocol):
    """Takes how far a long step is: shown as a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total``; ``note`` is a few words, e.g. the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step may use besides its options and its input.

    Attributes:
        recipe: the whole recipe.
        folder: an empty folder for the files that the step gives.
        scratch: the step's own folder that survives a kill, for checkpoints; it is removed when
            the step is done, and never belongs to the result.
        original: the unchanged model.
        data: the recipe's data.
        source: looks up functions that the recipe names.
        tell: progress of long steps.
    """

    recipe: Recipe
    folder: Path
    scratch: Path
    original: Original
    data: Data
    source: Source
    tell: Tell


class Step(FileModel, abc.ABC):
    """One transformation; its fields are its options in the recipe."""

    name: ClassVar[str]
    takes: ClassVar[Form]
    gives: ClassVar[Form]
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide what the step gives; they key the cache."""

    @property
    def uses(self) -> frozenset[Part]:
        """The parts of the data that ``run`` asks for; they key the cache."""
        return frozenset()

    @property
    def references(self) -> tuple[str, ...]:
        """Functions of the recipe's code that its options name."""
        return ()

    def recipe_inputs(self, recipe: Recipe) -> Mapping[str, Any]:  # noqa: ARG002
        """What ``run`` reads of the recipe besides its ``model``, ``data``, ``seed`` and
        ``serving.max_batch_size``, as JSON values; they key the cache.
        """
        return {}

    @property
    def label(self) -> str:
        """How progress and reports call the step."""
        return self.name

    @abc.abstractmethod
    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The transformed model. Equal inputs and seed give equal files (they are hashed).

        Raises:
            ToolMissing: when an optional package is not installed; the variant is skipped.
            ConchError: when the model cannot be transformed, or the result is not valid.
        """


def resized(
    batch: Batch, dims: Mapping[str, Sequence[int | str]], sizes: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    """The batch with its rows and symbolic axes repeated or cut to the given sizes.

    Args:
        batch: input name → array ``[batch, ...]``.
        dims: input name → sizes without the batch axis, as in the recipe.
        sizes: ``batch`` and each symbolic axis → wanted size.
    """
    result = {}
    for name, own in dims.items():
        array = np.asarray(batch[name])
        for axis, dim in enumerate(("batch", *own)):
            wanted = sizes[dim] if isinstance(dim, str) else dim
            if array.shape[axis] != wanted:
                array = np.take(array, np.arange(wanted) % array.shape[axis], axis=axis)
        result[name] = np.ascontiguousarray(array)
    return result
