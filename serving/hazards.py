"""Models that no server may be given: a shell would read their names, or Triton hangs or ends.

Measured on Triton 2.51, which starts the stub of each Python-based instance by ``bash -c`` without
quotes (CVE-2025-23316): the folder's name, ``default_model_filename``, the name of an instance
group and ``EXECUTION_ENV_PATH`` run what ``$(...)``, backquotes or ``&`` hold.
``cc_model_filenames`` is the file name on a GPU; ``backend``, ``runtime`` and ``platform`` become
paths, and so does an agent's name, whose library the server itself loads. The rule is an allow-list
for all of them, so that it does not lean on which of them a shell reads today. A stub that cannot
start (a name with a space) hangs the load, and with it the start of the server. A metric tag that
is no Prometheus label with a ``_`` before it ends the server; so do numbers that no machine can
meet, or it is busy with them for ever; so does an ensemble around a circle of ensembles. An
ensemble loads its members by itself, so one around a model that is left out is left out too. Which
files may be opened: ``named_files``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from conch.errors import ConchError, ConfigError, RepositoryError
from conch.names import model_name
from serving import ensembles, folders, model_config, named_files
from serving.model_config import ModelConfig, tensor_bytes
from serving.repository import CONFIG, STATE_DIR, Repository

ENVIRONMENT = "EXECUTION_ENV_PATH"
OWN_FOLDER = "$$TRITON_MODEL_DIRECTORY"
"""What Triton replaces by the model's own folder, at the start of ``EXECUTION_ENV_PATH`` only."""

MOST_INSTANCES = 1024
MOST_SEQUENCES = 2**20
MOST_WARM_UPS = 10_000
MOST_WARM_UP_ROWS = 1024
"""Where the config leaves the batch to the model's own."""
MOST_MADE_BYTES = 2**33
"""Of all that is made before the first request."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+@:,=][A-Za-z0-9_./+@:,=-]*")
_LABEL = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_]*|")
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
    found += [
        f"model_repository_agents: {agent.name!r}, a name without '/'; Triton loads its library"
        for agent in config.model_repository_agents.agents
        if "/" in agent.name
    ]
    # Triton 2.51 puts a "_" before it, and ends on a label that Prometheus does not take.
    found += [
        f"metric_tags: {key!r}, must be a Prometheus label, without a '_' first; "
        "Triton ends on any other"
        for key in config.metric_tags
        if not _LABEL.fullmatch(key)
    ]
    return found + [f"{what}: {value}, at most {most}" for what, value, most in _too_many(config)]


def require(repository: Repository, name: str) -> None:
    """Refuse a model that, as it is on disk now, must not reach Triton.

    Raises:
        ConfigError: with the first fault.
    """
    if found := _reasons(repository, [name]).get(name):
        raise ConfigError(f"{name}: {found}.", hint="See `conch repo check`.")


def left_out(repository: Repository) -> dict[str, str]:
    """Models that no server may be given, with the reason; also folders that are no model's name.

    A config that cannot be parsed cannot be vouched for, so it is among them.

    Raises:
        RepositoryError: when the repository itself cannot be listed.
    """
    return _reasons(repository, _folders(repository))


def _reasons(repository: Repository, names: Iterable[str]) -> dict[str, str]:
    """Why these, and all that they are made of, must not reach Triton; by name."""
    found: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name in members:  # looked at once: it may be another at a second look
            continue
        reason, members[name] = _of_model(repository, name)
        if reason:
            found[name] = reason
        left += [
            member
            for member in sorted(members[name] - members.keys())
            if folders.is_file(repository.root / member / CONFIG)
        ]
    return without(members, found) | circular(members) | found


def circular(members: dict[str, set[str]]) -> dict[str, str]:
    """The ensembles in a circle, and those that lead into one, with the reason.

    Triton 2.51 refuses the circle, and ends on one that leads into it.

    Args:
        members: by ensemble.

    Example:
        >>> sorted(circular({"a": {"b"}, "b": {"c"}, "c": {"b", "m"}, "d": {"m"}, "m": set()}))
        ['a', 'b', 'c']
    """
    left = {ensemble: set(needed) for ensemble, needed in members.items()}
    while ends := [ensemble for ensemble, needed in left.items() if not needed & left.keys()]:
        for ensemble in ends:
            del left[ensemble]
    return dict.fromkeys(left, "it is made of ensembles that are made of one another")


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
        return next(of(repository, config), ""), members
    except ConchError as error:
        return error.message.rstrip("."), set()
    except Exception as error:  # whatever is in it, the others are to be served
        return f"cannot be looked at ({type(error).__name__}: {error})", set()


def of(repository: Repository, config: ModelConfig) -> Iterator[str]:
    """The faults of a config and of the files that it names."""
    yield from faults(config)
    yield from named_files.faults(repository.root, config)


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
    for agent in config.model_repository_agents.agents:
        yield "model_repository_agents", agent.name
    if ENVIRONMENT in config.parameters:
        value = config.parameters[ENVIRONMENT].string_value
        yield ENVIRONMENT, value.removeprefix(OWN_FOLDER).replace("/..", "")  # anywhere will do


def _too_many(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """(what, the number asked for, the most that is allowed): Triton starts on it all the same."""
    asked = [("instance_group: instances", model_config.instance_count(config), MOST_INSTANCES)]
    oldest = config.sequence_batching.oldest.max_candidate_sequences
    asked.append(("max_candidate_sequences", oldest, MOST_SEQUENCES))
    if config.HasField("sequence_batching") and not config.sequence_batching.HasField("oldest"):
        asked.append(("sequence slots (max_batch_size)", config.max_batch_size, MOST_SEQUENCES))
    made_bytes = 0
    for sample in config.model_warmup:
        name, rows = f"warm-up {sample.name}", max(1, sample.batch_size)
        asked.append((f"{name}: batch_size", rows, config.max_batch_size or MOST_WARM_UP_ROWS))
        asked.append((f"{name}: count", sample.count, MOST_WARM_UPS))
        made_bytes += rows * sum(tensor_bytes(i.data_type, i.dims) for i in sample.inputs.values())
    for state in config.sequence_batching.state:
        made_bytes += sum(tensor_bytes(i.data_type, i.dims) for i in state.initial_state)
    asked.append(("bytes of warm-up and initial state", made_bytes, MOST_MADE_BYTES))
    return ((what, value, most) for what, value, most in asked if value > most)


def _is_plain(value: str) -> bool:
    """Whether no shell could misread it, and it leads nowhere else."""
    return not value or (
        bool(_PLAIN.fullmatch(value)) and ".." not in value.replace("\\", "/").split("/")
    )
