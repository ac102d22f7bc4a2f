"""TensorRT models in a repository: which have their engine, and which a server must leave out.

An engine (``model.plan``) is built on the host that serves it, after the model was published, so a
repository may hold a model that is not built yet, and a host may have no TensorRT at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from conch.errors import ConfigError, RepositoryError
from serving import ensembles, folders
from serving.model_config import ModelConfig
from serving.repository import PLAN_FACTS, PLAN_FILE, Repository

__all__ = ["BUILD_FILE", "PLAN_FACTS", "PLAN_FILE", "TENSORRT", "is_tensorrt", "left_out"]

TENSORRT = "tensorrt"
BUILD_FILE = "build.json"
"""How to build the engine; published beside the ONNX file."""


def is_tensorrt(config: ModelConfig) -> bool:
    """Whether Triton's TensorRT backend is to serve the model."""
    return TENSORRT in (config.backend, config.platform.removesuffix("_plan"))


def served_versions(config: ModelConfig, there: Iterable[int]) -> list[int]:
    """Of the versions that are there, those that ``version_policy`` serves; ascending."""
    found = sorted(there)
    choice = config.version_policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        return [n for n in found if n in config.version_policy.specific.versions]
    latest = max(1, config.version_policy.latest.num_versions)  # Triton's own default is 1
    return found[-latest:]


def built(repository: Repository, name: str) -> list[int]:
    """Versions of the model that have an engine; ascending."""
    folder = repository.root / name
    return [n for n in repository.versions(name) if folders.is_file(folder / str(n) / PLAN_FILE)]


def unbuilt(repository: Repository, config: ModelConfig) -> list[int]:
    """Served versions of a TensorRT model whose engine is not there yet; none for other models."""
    if not is_tensorrt(config):
        return []
    plan = config.default_model_filename or PLAN_FILE
    folder = repository.root / config.name
    return [
        version
        for version in served_versions(config, repository.versions(config.name))
        if not folders.is_file(folder / str(version) / plan)
    ]


def left_out(repository: Repository, backends: Path) -> dict[str, str]:
    """Models that a server with these backends must not try to load, each with the reason.

    TensorRT models without the backend or without an engine, and ensembles that need one of them.
    A config that cannot be read is Triton's to report.
    """
    found: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    has_backend = (backends / TENSORRT).is_dir()
    for name in repository.models():
        try:
            config = repository.read_config(name)
        except (ConfigError, RepositoryError):
            continue
        members[name] = ensembles.members(config)
        if is_tensorrt(config) and (why := _why(repository, config, has_backend=has_backend)):
            found[name] = why
    before = -1
    while before != len(found):  # an ensemble may be a member of another one
        before = len(found)
        for ensemble, needed in members.items():
            if ensemble not in found and (gone := sorted(needed & set(found))):
                found[ensemble] = f"its member {gone[0]} is left out"
    return found


def _why(repository: Repository, config: ModelConfig, *, has_backend: bool) -> str:
    """Why a TensorRT model cannot be loaded; empty when it can."""
    if not has_backend:
        return "this Triton has no TensorRT backend; serve it on a host with a GPU"
    versions = served_versions(config, repository.versions(config.name))
    if versions and unbuilt(repository, config) == versions:
        return (
            "its TensorRT engine is not built; build it here: "
            f"conch export build-engines {repository.root} --model {config.name}"
        )
    return ""
