"""Folders that are filled aside before anyone sees them, and compared with what is there."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

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
