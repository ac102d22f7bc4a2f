"""Files that are whole before anyone can see them: write aside, fsync, rename, fsync the folder.

Theory of operation. Whoever writes holds a kernel lock on its temporary file until that has its
name, and the kernel drops the lock when the process dies, whatever its number was and in whichever
container it ran. So a temporary file without a lock is one that nobody will finish.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
from pathlib import Path

from conch.errors import RepositoryError
from conch.failpoint import failpoint

MOST_BYTES = 64 * 2**20
"""A file of ours, or a config, is a thousandth of that; more is no file to be read whole."""
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}")


def read(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: when it cannot be read, is larger, or is something that a read may never end of,
            such as a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def write(target: Path, data: bytes, *, aside: Path, point: str) -> None:
    """Make ``target`` hold exactly ``data``, or leave it as it was.

    A file that is replaced keeps its mode, owner, group, access list and extended attributes, as
    far as we may give them: a server of another user must still be able to read it.

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
        with os.fdopen(_made(temp, private=target.exists()), "wb") as file:
            file.write(data)
            failpoint(f"{point}.temp_written")
            file.flush()
            _keep(target, file.fileno())
            os.fsync(file.fileno())
            temp.replace(target)
        failpoint(f"{point}.renamed")
        sync_folder(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the same disk says no, or there is nothing
            temp.unlink()
        raise _refused(target, error) from error


def _made(temp: Path, *, private: bool) -> int:
    """The new file, open and locked; ``private`` until its mode is known."""
    while True:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temp, flags, 0o600 if private else 0o666)
        with contextlib.suppress(OSError):  # a filesystem without locks: see ``is_left``
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)  # taken for a left one before it was locked


def _keep(target: Path, descriptor: int) -> None:
    """Give the open file what ``target`` has beside its content; nothing where there is none."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(old.st_mode):
        return
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:  # only root gives files away; a group of ours we may give
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    with contextlib.suppress(OSError):
        for name in os.listxattr(target):  # the access list is one of them, so the mode came first
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(target, name))


def is_left(path: Path) -> bool:
    """Whether it is a temporary file of ``write`` that nobody is writing any more."""
    if not _TEMPORARY.fullmatch(path.name):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or nobody can tell
        return False
    else:
        return True
    finally:
        os.close(descriptor)


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
