"""Remove what killed writers left in a repository's ``.conch/tmp``, and never what a live one has.

A file there belongs to a live writer while that holds the kernel's lock on it (``serving.atomic``);
a staged folder while somebody holds the lock of its model.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from conch.errors import ConchError
from serving import atomic, folders

_STAGED = re.compile(r"(?P<model>.+)\.[0-9a-f]{32}")


def remove(aside: Path, lock: Callable[[str], AbstractContextManager[None]]) -> None:
    """Remove all that is left; ``lock`` holds a model, or raises where somebody else does."""
    for path in folders.inside(aside):
        with contextlib.suppress(OSError, ConchError):
            if atomic.is_left(path):
                path.unlink()
            elif (staged := _STAGED.fullmatch(path.name)) and folders.is_folder(path):
                with lock(staged["model"]):
                    shutil.rmtree(path, ignore_errors=True)


def remove_of(aside: Path, model: str) -> None:
    """Remove what is left of this model's, whose lock is held, and files that nobody writes."""
    for path in folders.inside(aside):
        staged = _STAGED.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if atomic.is_left(path):
                path.unlink()
            elif staged and staged["model"] == model and folders.is_folder(path):
                shutil.rmtree(path, ignore_errors=True)
