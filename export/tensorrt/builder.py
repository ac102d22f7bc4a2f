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

from conch.errors import ConchError, RepositoryError
from export.hashing import file_sha256
from export.tensorrt import build_recipe, candidates, gate, process
from export.tensorrt.build_recipe import BuildRecipe
from export.tensorrt.candidates import Candidate, Host
from serving import atomic, locks
from serving.engines import (
    BUILD_FILE,
    PLAN_FACTS,
    PLAN_FILE,
    TENSORRT,
    is_tensorrt,
    served_versions,
)
from serving.repository import Repository

TIMING_CACHE = "timing.cache"
TIMEOUT_S = 3600.0
_STAGED = re.compile(r".+\.\d+\.[0-9a-f]{32}\.(plan|cache)")


class EngineError(ConchError):
    """No engine can be built here, or one could not be."""


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
        ConfigError: see ``candidates.find``.
        RepositoryError: when another process builds engines of this repository.
    """
    todo = candidates.find(repository, models)
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
        reason = candidates.reason_to_build(candidate, host)
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
