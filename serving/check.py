"""What is wrong, or soon will be, with the models of a repository. Reads only; needs no server."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conch.errors import ConfigError, RepositoryError
from conch.names import model_name
from serving import atomic, engines, folders, hazards, queue_limit, slots
from serving.model_config import ModelConfig
from serving.repository import CONFIG, LINEAGE, STATE_DIR, Repository

_SHOWN = 200
"""Characters of a file's name: Linux has at most 255."""
_CHUNK = 2**20


class Severity(enum.StrEnum):
    """How bad a finding is."""

    FAULT = "fault"
    """Triton cannot serve the model as it is."""
    WARNING = "warning"
    """It works now, and will surprise someone later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found.

    Attributes:
        model: the folder's name.
        severity: fault or warning.
        message: what was seen, and what is wanted.
    """

    model: str
    severity: Severity
    message: str


def check(repository: Repository, names: list[str] | None = None) -> list[Finding]:
    """Findings on these models, or on every folder of the repository.

    Raises:
        ConfigError: when a name that was asked for is not in the repository.
    """
    if names:
        for name in names:
            repository.config_path(name)
    left_out = hazards.left_out(repository)
    chosen = names or sorted(
        path.name
        for path in repository.root.iterdir()
        if folders.is_folder(path) and path.name != STATE_DIR
    )
    found: list[Finding] = []
    for name in chosen:
        try:
            of_it = list(_check_model(repository, name))
        except OSError as error:  # a folder that may not be entered, or went away meanwhile
            message = f"cannot be looked at ({error.strerror or error})"
            of_it = [Finding(model=name, severity=Severity.FAULT, message=message)]
        if name in left_out and all(one.severity is not Severity.FAULT for one in of_it):
            of_it.append(Finding(model=name, severity=Severity.FAULT, message=left_out[name]))
        found += of_it
    return found


def _check_model(repository: Repository, name: str) -> Iterator[Finding]:
    """Findings on one folder."""

    def fault(message: str) -> Finding:
        return Finding(model=name, severity=Severity.FAULT, message=message)

    try:
        model_name(name)
        config = repository.read_config(name)
    except (ConfigError, RepositoryError) as error:
        yield fault(error.message)
        return
    versions = repository.versions(name)
    if not versions and not config.HasField("ensemble_scheduling"):
        yield fault("no version folder with files in it; at least one is needed")
    for message in [*_contradictions(config), *hazards.of(repository, config)]:
        yield fault(message)
    for version in versions:
        folder = repository.root / name / str(version)
        if finding := _check_model_file(repository, config, version):
            yield finding
        for message in _changed_files(folder):
            yield fault(f"version {version}: {message}")
    for message in [*_implicit(config), *_stalls(config), *_unslotted(config)]:
        yield Finding(model=name, severity=Severity.WARNING, message=message)
    for stray in _stray_files(repository.root / name):
        yield Finding(
            model=name,
            severity=Severity.WARNING,
            message=f"{stray}: a file that Triton does not use; a newer one here turns an in-place "
            "change of instances into a full reload",
        )


def _check_model_file(repository: Repository, config: ModelConfig, version: int) -> Finding | None:
    """The finding on a version without its model file; an engine may still be built."""
    if "python" in (config.backend, config.platform):  # one of the hazards
        return None
    folder = repository.root / config.name / str(version)
    wanted = config.default_model_filename
    if not wanted or folders.is_file(folder / wanted) or folders.is_folder(folder / wanted):
        return None
    if engines.is_tensorrt(config) and (folder / engines.BUILD_FILE).is_file():
        return Finding(
            model=config.name,
            severity=Severity.WARNING,
            message=f"version {version}: its TensorRT engine is not built; on the host that "
            f"serves it: conch export build-engines {repository.root}",
        )
    return Finding(
        model=config.name,
        severity=Severity.FAULT,
        message=f"version {version} has no {wanted[:_SHOWN]}",
    )


def _contradictions(config: ModelConfig) -> Iterator[str]:
    """Values that Triton refuses together."""
    largest = config.max_batch_size
    sizes = list(config.dynamic_batching.preferred_batch_size)
    if too_large := [size for size in sizes if size > largest]:
        yield f"preferred_batch_size {too_large} above max_batch_size ({largest})"
    if config.HasField("dynamic_batching") and largest == 0:
        yield "dynamic_batching with max_batch_size 0; it must be at least 1"


def _implicit(config: ModelConfig) -> Iterator[str]:
    """What is left to Triton to choose."""
    if not config.instance_group and not config.HasField("ensemble_scheduling"):
        yield "no instance_group; Triton chooses a count that depends on the backend"
    for group in config.instance_group:
        if group.count < 1:
            yield "instance_group without a count; Triton takes 1 or 2, by backend"
    if not config.backend and not config.platform:
        yield "neither backend nor platform; Triton guesses it from file names"
    if not config.input or not config.output:
        yield "inputs or outputs are missing; Triton must complete them from the model"


def _stalls(config: ModelConfig) -> Iterator[str]:
    """What stops serving after minutes of traffic."""
    if queue_limit.loses_instances(config):
        yield (
            f"a queue timeout and max_queue_delay_microseconds "
            f"{config.dynamic_batching.max_queue_delay_microseconds}: with both, Triton before "
            "26.08 lets instances idle while requests wait, until a reload (server#8870); "
            "set the delay to 0"
        )


def _unslotted(config: ModelConfig) -> Iterator[str]:
    """What keeps the model from every server that `conch serve --slots` starts."""
    if why := slots.fault(config, slots.MOST):
        yield f"`conch serve --slots` leaves it out: {why}"


def _changed_files(folder: Path) -> Iterator[str]:
    """Files that are not what their lineage says."""
    path = folder / LINEAGE
    if not path.is_file():
        return
    try:
        named = dict(json.loads(atomic.read(path))["files"]).items()
        files = {str(name): str(at) for name, at in named}
    except (OSError, LookupError, RecursionError, TypeError, ValueError) as error:
        yield f"lineage.json cannot be read ({type(error).__name__}: {error})"
        return
    for name, expected in files.items():
        shown, parts = name[:_SHOWN], Path(name).parts
        if Path(name).is_absolute() or ".." in parts:
            yield f"lineage.json names {shown!r}, which is not in the version's folder"
        elif not folders.is_file(folder / name):
            yield f"{shown!r} is missing, lineage.json names it"
        elif (found := _sha256(folder / name)) != expected:
            yield f"{shown!r} was changed: sha256 {found[:12]}, lineage says {expected[:12]}"


def _sha256(file: Path) -> str:
    """Of its content, as long as its size says: some files of the kernel never end."""
    hashed, left = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as content:
        while left > 0 and (some := content.read(min(left, _CHUNK))):
            hashed.update(some)
            left -= len(some)
    return hashed.hexdigest()


def _stray_files(folder: Path) -> list[str]:
    """Files beside ``config.pbtxt`` that are no version, config or label."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.name != CONFIG and path.suffix not in (".txt", ".pbtxt")
    )
