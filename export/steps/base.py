"""What a step is: typed options, the form of model it takes and gives, and ``run``.

A later step (prune, distill, to_tensorrt) is one more class in one more file of this folder.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from conch.config_file import FileModel

if TYPE_CHECKING:
    import torch

    from export.recipe import Recipe

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model between two steps.

    Attributes:
        form: what it is.
        module: the PyTorch module, when the form is ``torch``.
        path: the file, when the form is ``onnx``.
        facts: what steps want the lineage to tell, e.g. opset and parity figures.
    """

    form: Form
    module: torch.nn.Module | None = None
    path: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def torch_module(self) -> torch.nn.Module:
        """The module of the ``torch`` form."""
        if self.module is None:
            raise AssertionError(f"an artifact in {self.form} form has no module")
        return self.module

    @property
    def file(self) -> Path:
        """The file of a form that is served from one."""
        if self.path is None:
            raise AssertionError(f"an artifact in {self.form} form has no file")
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step may use besides its options and its input.

    Attributes:
        recipe: the whole recipe.
        folder: an empty folder for the step's files.
        original: the unchanged module, the reference of every numeric check.
        examples: real (or, without data, synthetic) inputs at given sizes of ``batch`` and axes.
        calibration: the calibration batches.
    """

    recipe: Recipe
    folder: Path
    original: torch.nn.Module
    examples: Callable[[Mapping[str, int]], dict[str, NDArray[Any]]]
    calibration: Callable[[], Sequence[Batch]]


class Step(FileModel, abc.ABC):
    """One transformation; its fields are its options in the recipe."""

    name: ClassVar[str]
    takes: ClassVar[Form]
    gives: ClassVar[Form]

    @property
    def needs_calibration(self) -> bool:
        """Whether ``run`` asks for calibration data."""
        return False

    @property
    def label(self) -> str:
        """How progress and reports call the step."""
        return self.name

    @abc.abstractmethod
    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The transformed model.

        Raises:
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
