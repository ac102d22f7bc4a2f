"""Which engines a repository lacks: versions with a build recipe, and why one is to be built anew.

Reads the repository only; needs no GPU and no TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export.hashing import file_sha256
from export.tensorrt import build_recipe
from export.tensorrt.build_recipe import BuildRecipe
from serving.engines import BUILD_FILE, PLAN_FACTS, PLAN_FILE, is_tensorrt, served_versions
from serving.model_config import ModelConfig
from serving.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What engines are built for: a plan of another host is out of date."""

    gpu: str
    compute_capability: str
    tensorrt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A version that is published with a build recipe.

    Attributes:
        model: the model's name.
        version: the version.
        folder: the version directory.
        build: its build recipe.
        plan_facts: ``plan.json`` beside its engine; empty when it has none that can be read.
    """

    model: str
    version: int
    folder: Path
    build: BuildRecipe
    plan_facts: Mapping[str, Any]


def find(repository: Repository, models: Sequence[str] = ()) -> list[Candidate]:
    """Served versions with a build recipe, of these models or of all; and newest ones not built.

    A version that was published without its engine waits unserved while an older one has its own.

    Raises:
        ConfigError: for a model that is not there or has no build recipe, or a broken recipe.
    """
    found = []
    for name in models or repository.models():
        try:
            config = repository.read_config(name)
        except ConfigError:
            if models:
                raise
            continue  # `conch repo check` tells of it; the other models still get their engines
        own = []
        for version in _wanted(repository, config):
            folder = repository.root / name / str(version)
            if (folder / BUILD_FILE).is_file():
                build = build_recipe.load(folder / BUILD_FILE)
                own.append(
                    Candidate(
                        model=name,
                        version=version,
                        folder=folder,
                        build=build,
                        plan_facts=_read(folder / PLAN_FACTS),
                    )
                )
        if models and not own:
            raise ConfigError(
                f"{name}: no served version has a {BUILD_FILE}, only TensorRT variants do.",
                hint="Its recipe must end in to_tensorrt.",
            )
        found += own
    return found


def _wanted(repository: Repository, config: ModelConfig) -> list[int]:
    """The versions of a model that are served, or will be once they have an engine."""
    there = repository.versions(config.name)
    served = served_versions(config, there)
    newest = there[-1:]
    # Without its facts an engine was not put in place to the end.
    waits = is_tensorrt(config) and any(
        not (repository.root / config.name / str(n) / PLAN_FACTS).is_file() for n in newest
    )
    return sorted({*served, *newest}) if waits else served


def reason_to_build(candidate: Candidate, host: Host | None) -> str:
    """Why the version needs an engine; empty when the one that it has is right.

    Args:
        candidate: the version.
        host: where it is to run; None leaves the GPU and TensorRT out of the question.
    """
    facts, build = candidate.plan_facts, candidate.build
    plan = candidate.folder / PLAN_FILE
    if not plan.is_file():
        return "it has no engine"
    if not facts:
        return f"its engine has no {PLAN_FACTS}"
    if facts.get("build_sha256") != build.sha256:
        return f"{BUILD_FILE} is another than the engine was built by"
    if facts.get("plan_sha256") != file_sha256(plan):
        return f"{PLAN_FILE} is not the engine that {PLAN_FACTS} tells of"
    return _other_host(facts, build, host) if host is not None else ""


def _other_host(facts: Mapping[str, Any], build: BuildRecipe, host: Host) -> str:
    """Why an engine does not run on this host; empty when it does."""
    built_by, capability = str(facts.get("tensorrt")), str(facts.get("compute_capability"))
    if built_by != host.tensorrt and not (
        build.version_compatible and _numbers(built_by) < _numbers(host.tensorrt)
    ):
        return f"its engine is of TensorRT {built_by}, here is {host.tensorrt}"
    same_gpu = facts.get("gpu") == host.gpu and capability == host.compute_capability
    fits = {
        "none": same_gpu,
        "same_compute_capability": capability == host.compute_capability,
        "ampere_plus": _numbers(host.compute_capability) >= (8, 0),
    }
    if not fits[build.hardware_compatibility]:
        return (
            f"its engine is for {facts.get('gpu')} ({capability}), "
            f"here is {host.gpu} ({host.compute_capability})"
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, for comparison; words in it count as nothing."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
