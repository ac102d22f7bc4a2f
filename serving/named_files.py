"""Files that a config names or needs, and Triton opens while it loads the model.

Measured on Triton 2.51. A label file, warm-up data and the initial state of a sequence are read
whole, wherever they are: any client can ask for the lines of the file that a label file is, a
folder in its place ends the server, and a pipe keeps its start waiting, as does a Python model
without its file. An initial state of another size than its tensor ends the server now and then.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelSequenceBatching

from serving import engines, folders
from serving.model_config import ITEM_BYTES, ModelConfig

WARM_UP, INITIAL_STATE = "warmup", "initial_state"
"""The folders of a model that Triton looks in for such data."""

MOST_BYTES = 2**30
"""Of a file that is read whole."""

_VERSION = re.compile(r"\s*\+?([1-9][0-9]*)", re.ASCII)
_MOST_VERSION = 2**63 - 1


def faults(root: Path, config: ModelConfig) -> Iterator[str]:
    """What Triton must not be made to open, or would wait for, each with what is allowed.

    Args:
        root: the repository.
        config: of one of its models, by the name of its folder.
    """
    folder = root / config.name
    for field, path, size in _named(config):
        if reason := _unfit(folder, path, size):
            yield f"{field}: {path!r} {reason}"
    yield from _missing_models(folder, config)


def _named(config: ModelConfig) -> Iterator[tuple[str, str, int | None]]:
    """(field, path from the model's folder, its size in bytes where that must be exact)."""
    for output in config.output:
        if output.label_filename:
            yield "label_filename", output.label_filename, None
    for sample in config.model_warmup:
        for made in sample.inputs.values():
            if made.input_data_file:
                yield "input_data_file", _below(WARM_UP, made.input_data_file), None
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            if initial.data_file:
                yield "data_file", _below(INITIAL_STATE, initial.data_file), _bytes(initial)


def _below(folder: str, name: str) -> str:
    """The path of a file in a folder of the model; an absolute one as it is."""
    return name if name.startswith("/") else f"{folder}/{name}"


def _bytes(initial: ModelSequenceBatching.InitialState) -> int | None:
    """Of the tensor; None where that depends on what is in it, or the type is not known."""
    itemsize = ITEM_BYTES.get(initial.data_type)
    if itemsize is None or any(dim < 0 for dim in initial.dims):
        return None
    return itemsize * prod(int(dim) for dim in initial.dims)


def _unfit(folder: Path, path: str, size: int | None) -> str:
    """Why Triton must not open the file; empty where it may. A link may lead anywhere."""
    if path.startswith("/") or ".." in path.split("/"):
        return "leads out of the model's folder, where it must be"
    try:
        about = (folder / path).stat()
    except (OSError, ValueError) as error:
        return f"is not there ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(about.st_mode):
        return "must be a regular file; Triton ends on a folder and waits for a pipe"
    if not 0 < about.st_size <= MOST_BYTES:  # files of the kernel have a size of 0
        return f"has {about.st_size} bytes, must have 1 to {MOST_BYTES}"
    if size is not None and about.st_size != size:
        return f"has {about.st_size} bytes, must have {size}; Triton may end on any other size"
    return ""


def _missing_models(folder: Path, config: ModelConfig) -> Iterator[str]:
    """Versions of a Python model whose file is not where Triton will have its stub look."""
    if config.backend != "python" and config.platform != "python":
        return
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:  # what Triton would wait for cannot be told
        yield f"its folder cannot be listed ({error.strerror or error})"
        return
    numbers = {name: _number(name) for name in names}
    there = {n for name, n in numbers.items() if n and folders.is_folder(folder / name)}
    wanted = config.default_model_filename or "model.py"
    for number in engines.served_versions(config, there):
        if not folders.is_file(folder / str(number) / wanted):
            yield f"version {number} has no {number}/{wanted}; Triton waits for its stub for ever"


def _number(name: str) -> int:
    """The version that Triton takes a folder for; 0 for none.

    Example:
        >>> [_number(name) for name in ("3", "2_old", "02", "v1", "__pycache__")]
        [3, 2, 0, 0, 0]
    """
    match = _VERSION.match(name[:50])
    number = int(match[1]) if match else 0
    return number if number <= _MOST_VERSION else 0
