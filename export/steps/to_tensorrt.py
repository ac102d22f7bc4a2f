"""ONNX → what a host with a GPU needs to build a TensorRT engine, and proof that TensorRT takes it.

An engine runs only on the GPU and the TensorRT that it was built for, so it is built where it is
served, by ``conch export build-engines``. What is published is the graph and how to build it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from conch.units import Duration, Size
from export.hashing import file_sha256
from export.steps.base import Artifact, Context, Form, Step
from export.steps.onnx_file import save_whole
from export.steps.to_onnx import MODEL_FILE
from export.tensorrt import build_recipe, gate
from export.tensorrt.build_recipe import BuildRecipe, HardwareCompatibility
from serving.engines import BUILD_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from export.recipe import Recipe


class ToTensorrt(Step):
    """An optimisation profile from the batching range, a build recipe, and TensorRT's verdict.

    Precision is what the graph says: float16 by a cast before this step, INT8 by explicit Q/DQ.
    """

    wide = frozenset({"workspace"})
    name: ClassVar[str] = "to_tensorrt"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.TENSORRT
    packages: ClassVar[tuple[str, ...]] = ("onnx", "tensorrt", "tensorrt-rtx")

    version_compatible: bool = Field(
        default=False,
        description="The engine also runs on later TensorRT versions; it may be slower. Triton "
        "needs `--backend-config=tensorrt,version-compatible=true` for it.",
    )
    hardware_compatibility: HardwareCompatibility = Field(
        default="none",
        description="Other GPUs that the engine runs on: `none`, `ampere_plus` (every GPU from "
        "Ampere on) or `same_compute_capability`. It may be slower.",
    )
    optimization_level: int = Field(
        default=3, ge=0, le=5, description="How long to search for kernels; 5 is longest."
    )
    workspace: Size | None = Field(
        default=None,
        gt=0,
        description="GPU memory that kernels may use as scratch, e.g. `2GiB`; by default all.",
    )
    timing_cache: bool = Field(
        default=True,
        description="Keep what was measured of kernels in the repository: the next build on the "
        "same kind of GPU is quicker, and chooses the same kernels.",
    )
    timeout: Duration = Field(
        default=600.0,
        gt=0,
        le=86_400,
        description="A trial build that takes longer counts as refused.",
    )

    def recipe_inputs(self, recipe: Recipe) -> Mapping[str, Any]:
        """The batch sizes that the profile is tuned for."""
        return {"preferred_batch_sizes": list(recipe.serving.preferred_batch_sizes)}

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The ONNX file with its build recipe; what TensorRT said of it is in the facts.

        Raises:
            ToolMissing: when no TensorRT of any kind is here to ask.
            ConfigError: when the file with all its weights would be 2 GB or larger.
        """
        tool = gate.tool()
        path = context.folder / MODEL_FILE
        save_whole(artifact.file, path, step=self.name)
        build = self._recipe(path, context.recipe)
        build_file = context.folder / BUILD_FILE
        build_file.write_text(build.to_json(), encoding="utf-8")
        found = gate.ask(path, build, with_tool=tool, timeout_s=self.timeout)
        tensors = (*context.recipe.model.inputs, *context.recipe.model.outputs)
        found["mismatched"] = gate.mismatched(found, {t.name: str(t.dtype) for t in tensors})
        told = {"gate": found, "build": build.model_dump(mode="json")}
        return Artifact(
            form=Form.TENSORRT,
            path=path,
            extra=(build_file,),
            facts={**artifact.facts, "tensorrt": told},
        )

    def _recipe(self, onnx: Path, recipe: Recipe) -> BuildRecipe:
        """How to build the engine."""
        return BuildRecipe(
            onnx=onnx.name,
            onnx_sha256=file_sha256(onnx),
            profile=build_recipe.profile(recipe),
            version_compatible=self.version_compatible,
            hardware_compatibility=self.hardware_compatibility,
            optimization_level=self.optimization_level,
            workspace_bytes=self.workspace,
            timing_cache=self.timing_cache,
        )
