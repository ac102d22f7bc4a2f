"""ONNX files whose weights lie in files beside them, made into one file."""

from __future__ import annotations

import shutil
from pathlib import Path

from conch.errors import ConfigError
from export.external_data import external_files

LARGEST_BYTES = 2**31 - 1
"""Of one file: protobuf writes no larger message."""


def save_whole(source: Path, target: Path, *, step: str) -> None:
    """Write the model with all its weights into one file; it is copied where it is one already.

    Args:
        source: the file; its data files lie beside it.
        target: what to write.
        step: what needs it, for the message.

    Raises:
        ConfigError: when it would be 2 GB or larger, or a data file is missing.
    """
    import onnx

    others = external_files(source)
    if not others:
        shutil.copyfile(source, target)
        return
    size = sum(path.stat().st_size for path in (source, *others))
    if size > LARGEST_BYTES:
        raise ConfigError(
            f"{step}: the model with its weights takes {size:,} bytes, one file can hold "
            f"{LARGEST_BYTES:,}.",
            hint="Make it smaller before, or leave the step out.",
        )
    onnx.save(onnx.load(source), target)


def as_one_file(source: Path, folder: Path, *, step: str) -> Path:
    """The file itself when it holds all its weights, else one in ``folder`` that does.

    For tools that move the file about and leave its data files behind.

    Raises:
        ConfigError: as ``save_whole``.
    """
    if not external_files(source):
        return source
    target = folder / "whole.onnx"
    save_whole(source, target, step=step)
    return target
