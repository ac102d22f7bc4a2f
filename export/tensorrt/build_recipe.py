"""``build.json``: how a host with a GPU is to build an engine from the ONNX file beside it.

Precision is no option here: TensorRT 11 takes it from the graph alone (strong typing, explicit
Q/DQ), and TensorRT 10 is asked to do the same, so one file means one thing to both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from conch import config_file
from conch.config_file import FileModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.recipe import Recipe

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]


class InputProfile(FileModel):
    """Shapes of one input, batch axis first: the engine takes any between min and max."""

    min: tuple[int, ...] = Field(description="Smallest shape.")
    opt: tuple[int, ...] = Field(description="The shape that kernels are tuned for.")
    max: tuple[int, ...] = Field(description="Largest shape.")


class BuildRecipe(FileModel):
    """All that decides an engine but the GPU and TensorRT's version."""

    wide = frozenset({"workspace_bytes"})

    version: Literal[1] = Field(default=1, description="Version of this format.")
    onnx: str = Field(description="The ONNX file, beside this one.")
    onnx_sha256: str = Field(description="Hash of its content.")
    profile: dict[str, InputProfile] = Field(description="The optimisation profile, by input.")
    version_compatible: bool = Field(default=False, description="See the recipe's to_tensorrt.")
    hardware_compatibility: HardwareCompatibility = Field(default="none", description="Likewise.")
    optimization_level: int = Field(default=3, ge=0, le=5, description="Likewise.")
    workspace_bytes: int | None = Field(default=None, ge=1, description="Likewise.")
    timing_cache: bool = Field(default=True, description="Likewise.")

    def to_json(self) -> str:
        """Its file's text; equal recipes give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @property
    def sha256(self) -> str:
        """Names the recipe: an engine that was built by another one is out of date."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load(path: Path) -> BuildRecipe:
    """The recipe in the file.

    Raises:
        ConfigError: when it is missing, no JSON, or not of this format.
    """
    return config_file.load(path, BuildRecipe)  # JSON is YAML


def profile(recipe: Recipe) -> dict[str, InputProfile]:
    """The optimisation profile that covers all that the recipe lets clients send.

    Batches go from 1 to max_batch_size, tuned for the largest preferred size, else for half of the
    largest; axes go from min to max, tuned for their example.
    """
    largest = recipe.serving.max_batch_size
    tuned = max(recipe.serving.preferred_batch_sizes, default=max(1, largest // 2))
    axes = recipe.model.axes

    def shape(dims: Sequence[int | str], batch: int, key: str) -> tuple[int, ...]:
        return (batch, *(getattr(axes[d], key) if isinstance(d, str) else d for d in dims))

    return {
        tensor.name: InputProfile(
            min=shape(tensor.dims, 1, "min"),
            opt=shape(tensor.dims, tuned, "example"),
            max=shape(tensor.dims, largest, "max"),
        )
        for tensor in recipe.model.inputs
    }


def as_request(build: BuildRecipe) -> dict[str, Any]:
    """The recipe as JSON values for the runner."""
    return build.model_dump(mode="json")
