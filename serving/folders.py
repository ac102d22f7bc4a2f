"""Look at folders that others change and close: what is gone or not ours to see is just not there.

``Path.is_file`` and its like raise where a folder above may not be entered, and a name that was
listed a moment ago may be gone. For a look at many models that is no error.
"""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether it is a file, as far as we may tell."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder, as far as we may tell."""
    try:
        return path.is_dir()
    except OSError:
        return False


def inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it is none, is gone, or is closed to us."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
