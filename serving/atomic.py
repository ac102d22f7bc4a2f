"""Files that are whole before anyone can see them: write aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from conch.errors import RepositoryError
from conch.failpoint import failpoint


def write(target: Path, data: bytes, *, aside: Path, point: str) -> None:
    """Make ``target`` hold exactly ``data``, or leave it as it was.

    Args:
        target: the file to replace or create.
        data: its new content.
        aside: a folder on the same filesystem for the temporary file; never the model's own, where
            a stray file turns Triton's in-place update into a full reload.
        point: failpoint prefix: ``<point>.temp_written`` and ``<point>.renamed``.

    Raises:
        RepositoryError: when the disk refuses; nothing has changed then.
    """
    temp = aside / f"{target.name}.{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as file:
            file.write(data)
            failpoint(f"{point}.temp_written")
            file.flush()
            os.fsync(file.fileno())
        temp.replace(target)
        failpoint(f"{point}.renamed")
        sync_folder(target.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise _refused(target, error) from error


def move_folder(staged: Path, target: Path) -> None:
    """Rename a finished folder into place; ``target`` must not exist.

    Raises:
        RepositoryError: when the disk refuses; the staged folder is removed then.
    """
    try:
        for path in staged.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        failpoint("repository.publish.staged")
        staged.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise _refused(target, error) from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(target: Path, error: OSError) -> RepositoryError:
    """What to tell the user when the disk says no."""
    return RepositoryError(
        f"write of {target}: {error.strerror or error}. Nothing was changed.",
        hint="Free some space or mend the permissions, then run it again.",
    )
