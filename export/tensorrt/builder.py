"""``conch export build-engines``: every engine that a repository lacks, built on this GPU.

TensorRT runs in a process of its own. An engine gets its place in one rename, once it is whole; the
model's config and its other files stay as they were published.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conch.errors import ConchError, ConfigError, RepositoryError
from export.hashing import file_sha256
from export.tensorrt import build_recipe, gate, process
from export.tensorrt.build_recipe import BuildRecipe
from serving import atomic, locks
from serving.engines import (
    BUILD_FILE,
    PLAN_FACTS,
    PLAN_FILE,
    TENSORRT,
    is_tensorrt,
    served_versions,
)
from serving.model_config import ModelConfig
from serving.repository import Repository

TIMING_CACHE = "timing.cache"
TIMEOUT_S = 3600.0
_STAGED = re.compile(r".+\.\d+\.[0-9a-f]{32}\.(plan|cache)")


class EngineError(ConchError):
    """No engine can be built here, or one could not be."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What became of one candidate.

    Attributes:
        state: ``built``, ``current``, ``failed``, or ``to build`` in a dry run.
        reason: why it was (or would be) built, or why not.
        engine_bytes: size of the engine, where there is one.
    """

    model: str
    version: int
    state: str
    reason: str = ""
    engine_bytes: int | None = None


def candidates(repository: Repository, models: Sequence[str] = ()) -> list[Candidate]:
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


def find_host() -> Host:
    """The GPU and TensorRT of this machine.

    Raises:
        EngineError: when one of them is missing; says which.
    """
    there = process.probe()
    if "gpu" not in there.values:
        why = there.values.get("error") or there.ended
        raise EngineError(
            f"build-engines: {why}; TensorRT builds an engine only on the GPU that is to run it.",
            hint="Run it on the GPU host: docker compose --profile gpu run --rm build-engines. "
            "Here, --dry-run lists what would be built.",
        )
    version = process.run({"action": "version", "module": gate.REAL}, timeout_s=120.0)
    if version.ended or not version.values.get("version"):
        raise EngineError(
            f"build-engines: TensorRT for Python does not start: {version.ended}.",
            hint="pip install 'conch-serving[gpu]', in the TensorRT version of the server.",
        )
    return Host(
        gpu=str(there.values["gpu"]),
        compute_capability=str(there.values["compute_capability"]),
        tensorrt=str(version.values["version"]),
    )


def run(
    repository: Repository,
    models: Sequence[str] = (),
    *,
    dry_run: bool = False,
    timeout_s: float = TIMEOUT_S,
    started: Callable[[Candidate, str], None] = lambda *_: None,
) -> list[Built]:
    """Build what is missing or out of date; a failure of one does not stop the others.

    A newest version that waited for its engine is served from then on.

    Args:
        repository: the model repository.
        models: only these; all by default.
        dry_run: only say what would be built; needs no GPU.
        timeout_s: for each engine.
        started: told of each engine before it is built, with the reason.

    Raises:
        EngineError: when there is something to look after, and no GPU or no TensorRT.
        ConfigError: see ``candidates``.
        RepositoryError: when another process builds engines of this repository.
    """
    todo = candidates(repository, models)
    if not todo:
        return []
    if dry_run:
        return [_look(candidate, None) for candidate in todo]
    host = find_host()
    busy = RepositoryError(
        f"build-engines: another process builds engines of {repository.root}.",
        hint="Wait for it to end, then run it again.",
    )
    found = []
    with locks.held(repository.state / "build-engines.lock", wait_s=0, busy=busy):
        _remove_leftovers(repository)
        for candidate in todo:
            seen = _look(candidate, host)
            if seen.state == "to build":
                started(candidate, seen.reason)
                seen = _build(repository, candidate, host, seen.reason, timeout_s)
            found.append(seen)
    return found


def _look(candidate: Candidate, host: Host | None) -> Built:
    """Whether the version needs an engine: ``current``, ``to build``, or ``failed`` to be read."""
    try:
        reason = reason_to_build(candidate, host)
        if reason:
            return _built(candidate, "to build", reason)
        size = (candidate.folder / PLAN_FILE).stat().st_size
    except OSError as error:
        return _built(candidate, "failed", f"{error.filename}: {error.strerror or error}")
    return _built(candidate, "current", engine_bytes=size)


def _remove_leftovers(repository: Repository) -> None:
    """Remove what a killed build left aside: engines are large. The lock of builds is held."""
    aside = repository.state / "tmp"
    for path in aside.iterdir() if aside.is_dir() else ():
        if _STAGED.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _build(
    repository: Repository, candidate: Candidate, host: Host, reason: str, timeout_s: float
) -> Built:
    """One engine; what the disk or a lock refuses is its own failure, and no other's."""
    try:
        return _build_aside(repository, candidate, host, reason, timeout_s)
    except RepositoryError as error:
        return _built(candidate, "failed", error.message)
    except OSError as error:
        return _built(candidate, "failed", f"{error.filename}: {error.strerror or error}")


def _build_aside(
    repository: Repository, candidate: Candidate, host: Host, reason: str, timeout_s: float
) -> Built:
    """One engine: built aside, then put in place."""
    onnx = candidate.folder / candidate.build.onnx
    if not onnx.is_file() or file_sha256(onnx) != candidate.build.onnx_sha256:
        return _built(
            candidate, "failed", f"{onnx.name} is not the file that {BUILD_FILE} was made for"
        )
    aside = repository.state / "tmp"
    aside.mkdir(parents=True, exist_ok=True)
    staged = aside / f"{candidate.model}.{candidate.version}.{uuid.uuid4().hex}.plan"
    cache = repository.state / TIMING_CACHE
    staged_cache = staged.with_suffix(".cache")
    try:
        outcome = process.run(
            {
                "action": "build",
                "module": gate.REAL,
                "onnx": str(onnx),
                "build": build_recipe.as_request(candidate.build),
                "plan": str(staged),
                "timing_cache": str(cache),
                "timing_cache_out": str(staged_cache) if candidate.build.timing_cache else None,
            },
            timeout_s=timeout_s,
        )
        told = gate.summary(outcome, with_tool=gate.REAL)
        if not told["built"]:
            return _built(candidate, "failed", "; ".join(told["errors"]) or "no engine came out")
        facts = plan_facts(candidate.build, host, staged, now=datetime.datetime.now(datetime.UTC))
        place(repository, candidate, staged, facts)
        if staged_cache.is_file():
            staged_cache.replace(cache)
    finally:
        staged.unlink(missing_ok=True)
        staged_cache.unlink(missing_ok=True)
    return _built(candidate, "built", reason, engine_bytes=told["engine_bytes"])


def plan_facts(
    build: BuildRecipe, host: Host, plan: Path, *, now: datetime.datetime
) -> dict[str, Any]:
    """What ``plan.json`` says of an engine."""
    return {
        **asdict(host),
        "onnx_sha256": build.onnx_sha256,
        "build_sha256": build.sha256,
        "plan_sha256": file_sha256(plan),
        "engine_bytes": plan.stat().st_size,
        "flags": {
            "version_compatible": build.version_compatible,
            "hardware_compatibility": build.hardware_compatibility,
            "optimization_level": build.optimization_level,
            "workspace_bytes": build.workspace_bytes,
        },
        "built_at": now.isoformat(timespec="seconds"),
    }


def place(
    repository: Repository, candidate: Candidate, staged: Path, facts: Mapping[str, Any]
) -> None:
    """Put a finished engine into its version directory, and see that the config loads it.

    The newest version is served from then on, if it waited for its engine. The facts come last: a
    kill before them leaves an engine without facts that fit, which is built again.

    Raises:
        RepositoryError: when the disk refuses, or another process keeps the model.
    """
    with repository.lock(candidate.model):
        target = candidate.folder / PLAN_FILE
        try:
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            staged.replace(target)
            atomic.sync_folder(candidate.folder)
        except OSError as error:
            raise RepositoryError(
                f"write of {target}: {error.strerror or error}.",
                hint="Free some space or mend the permissions, then run it again.",
            ) from error
        _serve(repository, candidate)
        text = json.dumps(dict(facts), indent=2, sort_keys=True) + "\n"
        atomic.write(
            candidate.folder / PLAN_FACTS,
            text.encode(),
            aside=repository.state / "tmp",
            point="engines.facts",
        )


def _serve(repository: Repository, candidate: Candidate) -> None:
    """See that the model's config loads the engine; the model's lock is held."""
    config = repository.read_config(candidate.model)
    if not is_tensorrt(config) or config.default_model_filename != PLAN_FILE:
        config.backend, config.platform = TENSORRT, ""
        config.default_model_filename = PLAN_FILE
    there = repository.versions(candidate.model)
    waited = candidate.version not in served_versions(config, there)
    if waited and candidate.version == there[-1]:
        config.version_policy.latest.num_versions = 1
    if config != repository.read_config(candidate.model):
        repository.write_config(candidate.model, config, reason="its engine was built")


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


def _built(
    candidate: Candidate, state: str, reason: str = "", *, engine_bytes: int | None = None
) -> Built:
    """A candidate's outcome."""
    return Built(
        model=candidate.model,
        version=candidate.version,
        state=state,
        reason=reason,
        engine_bytes=engine_bytes,
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
