"""Folders that are filled aside before anyone sees them, and compared with what is there."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from conch.failpoint import failpoint
from serving.revisions import sha256


def fill(folder: Path, copies: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    """A new folder with copies of files and with texts, by their paths in it.

    Raises:
        OSError: when the disk refuses; what was written so far is the caller's to remove.
    """
    folder.mkdir(parents=True)
    for name, source in copies.items():
        failpoint("repository.publish.copy")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def holds(folder: Path, files: Mapping[str, Path], besides: Collection[str]) -> bool:
    """Whether the folder has exactly these files, byte for byte, whatever is ``besides``."""
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    } - set(besides)
    return there == set(files) and all(
        sha256((folder / file_name).read_bytes()) == sha256(source.read_bytes())
        for file_name, source in files.items()
    )


def tells(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an old lineage is of the same variant and has all keys of the new one."""
    return old.get("variant") == new.get("variant") and new.keys() <= old.keys()


def kept(known: Sequence[int | None], newest: int) -> list[int | None]:
    """Which of the numbers may stay, so that all ascend and the last one is the highest there.

    Args:
        known: the number that holds each version already, or None.
        newest: the highest number there is; 0 for none. New ones are above it.

    Example:
        >>> kept([1, 2], newest=2), kept([2, 1], newest=2), kept([1, 2], newest=3)
        ([1, 2], [2, None], [1, None])
    """
    found: list[int | None] = []
    below = 0
    for index, number in enumerate(known):
        least = newest - 1 if index == len(known) - 1 else 0
        stays = number is not None and number > max(below, least)
        found.append(number if stays else None)
        below = number if stays and number is not None else newest
    return found
