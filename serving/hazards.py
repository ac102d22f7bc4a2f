"""Models that no server may be given: a shell would read their names, or Triton hangs or ends.

Measured on Triton 2.51, which starts the stub of each Python-based instance by ``bash -c`` without
quotes (CVE-2025-23316): the folder's name, ``default_model_filename``, the name of an instance
group and ``EXECUTION_ENV_PATH`` run what ``$(...)``, backquotes or ``&`` hold.
``cc_model_filenames`` is the file name on a GPU; ``backend``, ``runtime`` and ``platform`` become
paths. The rule is an allow-list for all of them, so that it does not lean on which of them a shell
reads today. A stub that cannot start (a name with a space, a model file that is not there) hangs
the load, and with it the start of the server; a version's folder is taken by the number that its
name begins with, and opened by that number alone. A metric tag that is no Prometheus label ends the
server. An ensemble loads its members by itself, so one around such a model is left out too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from conch.errors import ConchError, ConfigError, RepositoryError
from conch.names import model_name
from serving import engines, ensembles, folders, model_config
from serving.model_config import ModelConfig
from serving.repository import CONFIG, STATE_DIR, Repository

ENVIRONMENT = "EXECUTION_ENV_PATH"
OWN_FOLDER = "$$TRITON_MODEL_DIRECTORY"
"""What Triton replaces by the model's own folder, at the start of ``EXECUTION_ENV_PATH`` only."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+@:,=][A-Za-z0-9_./+@:,=-]*")
_VERSION = re.compile(r"\s*\+?([1-9][0-9]{0,17})", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MEND = "allowed are letters, digits and '_ . / + @ : , = -' (no '..', no '-' first)"


def faults(config: ModelConfig) -> list[str]:
    """What of the config must not reach Triton, each with what is allowed; empty when all may.

    Example:
        >>> from serving.model_config import parse
        >>> faults(parse('name: "m" default_model_filename: "m$(id).onnx"'))[0][:40]
        "default_model_filename: 'm$(id).onnx', a"
    """
    found = [
        f"{field}: {value!r}, {_MEND}; Triton hands it to a shell"
        for field, value in _strings(config)
        if not _is_plain(value)
    ]
    # Triton 2.51 ends on a label that Prometheus does not take, and with it every other model.
    found += [
        f"metric_tags: {key!r}, must be a Prometheus label ([a-zA-Z_][a-zA-Z0-9_]*); "
        "Triton ends on any other"
        for key in config.metric_tags
        if not _LABEL.fullmatch(key)
    ]
    return found


def require(repository: Repository, name: str) -> None:
    """Refuse a model whose names, as they are on disk now, must not reach Triton.

    Raises:
        ConfigError: with the first fault.
    """
    if found := _of_model(repository, name)[0]:
        raise ConfigError(f"{name}: {found}.", hint="See `conch repo check`.")


def left_out(repository: Repository) -> dict[str, str]:
    """Models that no server may be given, with the reason; also folders that are no model's name.

    A config that cannot be parsed cannot be vouched for, so it is among them.

    Raises:
        RepositoryError: when the repository itself cannot be listed.
    """
    found: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    for name in _folders(repository):
        reason, needed = _of_model(repository, name)
        if reason:
            found[name] = reason
        else:
            members[name] = needed
    return found | without(members, found)


def without(members: dict[str, set[str]], gone: dict[str, str]) -> dict[str, str]:
    """The ensembles that need a model that is left out, or a name that is none, with the reason.

    Args:
        members: by ensemble.
        gone: what is left out already, by name.
    """
    found: dict[str, str] = {}
    before = -1
    while before != len(found):  # an ensemble may be a member of another one
        before = len(found)
        for ensemble, needed in members.items():
            for member in sorted(needed):
                if ensemble not in found and (member in gone or member in found):
                    found[ensemble] = f"its member {member!r} is left out"
    return found


def _of_model(repository: Repository, name: str) -> tuple[str, set[str]]:
    """The first fault of a model on disk, empty when there is none; and what it is made of."""
    try:
        model_name(name)
        config = model_config.parse(repository.config_text(name), lenient=True)
        config.name = name
        members = ensembles.members(config)
        for member in members:
            model_name(member)
    except ConchError as error:
        return error.message.rstrip("."), set()
    return next(iter(faults(config) or missing_files(repository, config)), ""), members


def missing_files(repository: Repository, config: ModelConfig) -> list[str]:
    """Versions of a Python model whose file is not where Triton will have its stub look."""
    if config.backend != "python" and config.platform != "python":
        return []
    root = repository.root / config.name
    try:
        names = [path.name for path in root.iterdir()]
    except OSError as error:  # what Triton would wait for cannot be told
        return [f"its folder cannot be listed ({error.strerror or error})"]
    numbers = {name: _number(name) for name in names}
    there = {n for name, n in numbers.items() if n and folders.is_folder(root / name)}
    wanted = config.default_model_filename or "model.py"
    return [
        f"version {number} has no {number}/{wanted}; Triton waits for its stub for ever"
        for number in engines.served_versions(config, there)
        if not folders.is_file(root / str(number) / wanted)
    ]


def _number(folder: str) -> int:
    """The version that Triton takes a folder for; 0 for none.

    Example:
        >>> [_number(name) for name in ("3", "2_old", "02", "v1", "__pycache__")]
        [3, 2, 0, 0, 0]
    """
    match = _VERSION.match(folder)
    return int(match[1]) if match else 0


def _folders(repository: Repository) -> Iterator[str]:
    """Names of the folders that look like models, whatever they are called."""
    try:
        there = sorted(path.name for path in repository.root.iterdir())
    except OSError as error:  # nothing may be taken for harmless then
        raise RepositoryError(
            f"model repository {repository.root}: cannot be listed ({error.strerror or error}).",
            hint="Check that it is there, and its permissions.",
        ) from error
    for name in there:  # one that we may not enter is none; nor may Triton
        if name != STATE_DIR and folders.is_file(repository.root / name / CONFIG):
            yield name


def _strings(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """(field, value) of all that becomes a path or a part of a command line."""
    yield "backend", config.backend
    yield "platform", config.platform
    yield "runtime", config.runtime
    yield "default_model_filename", config.default_model_filename
    for key, value in config.cc_model_filenames.items():
        yield f"cc_model_filenames[{key!r}]", value
    for group in config.instance_group:
        yield "instance_group name", group.name
    if ENVIRONMENT in config.parameters:
        value = config.parameters[ENVIRONMENT].string_value
        yield ENVIRONMENT, value.removeprefix(OWN_FOLDER)


def _is_plain(value: str) -> bool:
    """Whether no shell could misread it, and it leads nowhere else."""
    return not value or (
        bool(_PLAIN.fullmatch(value)) and ".." not in value.replace("\\", "/").split("/")
    )
