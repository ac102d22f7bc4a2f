"""An accepted variant into the model repository: an explicit config, its files, its lineage.

Nothing is left to Triton's auto-complete: it fills in values that later changes contradict.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conch.names import model_name
from export.recipe import Recipe, Tensor
from export.report import VariantReport
from export.steps import Artifact
from export.steps.to_onnx import MODEL_FILE
from serving.model_config import ModelConfig

_RECORDED = ("conch-serving", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def triton_config(recipe: Recipe, name: str) -> ModelConfig:
    """The complete config of a variant.

    Source: triton-inference-server/common ``protobuf/model_config.proto``; parameters are those of
    the ONNX Runtime backend.

    Args:
        recipe: gives inputs, outputs and the serving section.
        name: the published name.

    Raises:
        ConfigError: when the name is not safe in a path, a URL and a shell line.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    serving = recipe.serving
    config = ModelConfig(
        name=model_name(name),
        backend="onnxruntime",
        default_model_filename=MODEL_FILE,
        max_batch_size=serving.max_batch_size,
    )
    for tensor in recipe.model.inputs:
        config.input.add(name=tensor.name, data_type=_triton_dtype(tensor), dims=_dims(tensor))
    for tensor in recipe.model.outputs:
        config.output.add(name=tensor.name, data_type=_triton_dtype(tensor), dims=_dims(tensor))
    config.version_policy.latest.num_versions = 1
    config.dynamic_batching.max_queue_delay_microseconds = round(serving.max_queue_delay * 1e6)
    kind = (
        pb.ModelInstanceGroup.KIND_CPU
        if serving.device == "cpu"
        else pb.ModelInstanceGroup.KIND_GPU
    )
    config.instance_group.add(count=serving.instances, kind=kind)
    if serving.threads is not None:
        for key, value in (
            ("intra_op_thread_count", serving.threads),
            ("inter_op_thread_count", 1),
            ("execution_mode", 0),
        ):
            config.parameters[key].string_value = str(value)
    if serving.warm_up:
        _add_warm_up(config, recipe)
    return config


def lineage(
    recipe: Recipe,
    *,
    recipe_sha256: str,
    report: VariantReport,
    artifact: Artifact,
    now: datetime.datetime | None = None,
) -> dict[str, Any]:
    """Where a version comes from and why it was let in, as JSON values.

    Args:
        recipe: the recipe.
        recipe_sha256: hash of the recipe and the code it names.
        report: the variant's figures and verdicts.
        artifact: the file and what its steps noted.
        now: time of publishing, for tests; the present by default.
    """
    at = now or datetime.datetime.now(datetime.UTC)
    return {
        "published_at": at.isoformat(timespec="seconds"),
        "recipe_sha256": recipe_sha256,
        "seed": recipe.seed,
        "steps": list(report.steps),
        "files": {artifact.file.name: file_sha256(artifact.file)},
        "facts": dict(artifact.facts),
        "gates": [
            {"gate": g.gate, "value": g.value, "sense": g.sense, "limit": g.limit, "unit": g.unit}
            for g in report.gates
        ],
        "size_bytes": report.size_bytes,
        "latency_ms": {str(batch): ms for batch, ms in report.latency_ms.items()},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what an export gives."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # Conch itself, when it runs from its source tree
    return found


def file_sha256(path: Path) -> str:
    """Hash of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Sequence[Path]) -> str:
    """One hash of several files' names and contents; a missing file counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _triton_dtype(tensor: Tensor) -> Any:
    """The proto's value for a numpy dtype."""
    from tritonclient.grpc import model_config_pb2 as pb
    from tritonclient.utils import np_to_triton_dtype

    return pb.DataType.Value(f"TYPE_{np_to_triton_dtype(np.dtype(tensor.dtype))}")


def _dims(tensor: Tensor) -> list[int]:
    """Sizes without the batch axis; -1 for those that vary."""
    return [-1 if isinstance(dim, str) else dim for dim in tensor.dims]


def _add_warm_up(config: ModelConfig, recipe: Recipe) -> None:
    """Warm up with one request of the smallest and one of the largest batch, at example sizes.

    Integers are zeros: random ones are no valid index into an embedding table.
    """
    for batch in sorted({1, recipe.serving.max_batch_size}):
        sample = config.model_warmup.add(name=f"batch_{batch}", batch_size=batch, count=1)
        for tensor in recipe.model.inputs:
            entry = sample.inputs[tensor.name]
            entry.data_type = _triton_dtype(tensor)
            entry.dims.extend(recipe.example_dims(tensor))
            if np.dtype(tensor.dtype).kind == "f":
                entry.random_data = True
            else:
                entry.zero_data = True
