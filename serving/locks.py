"""Lock files: one process at a time, with an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from conch.errors import ConchError, RepositoryError


@contextmanager
def held(path: Path, *, wait_s: float, busy: ConchError, nested: bool = False) -> Iterator[None]:
    """Hold the lock file.

    Args:
        path: the file; its folder is made.
        wait_s: how long to wait for another process; 0 fails at once.
        busy: raised when another keeps it.
        nested: whether who holds it in this process may take it again.

    Raises:
        ConchError: ``busy``.
        RepositoryError: when the disk refuses.
    """
    lock = filelock.FileLock(path, is_singleton=nested)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s)
    except filelock.Timeout:
        raise busy from None
    except (OSError, NotImplementedError) as error:  # the second: a filesystem without locks
        raise RepositoryError(
            f"lock {path}: {getattr(error, 'strerror', None) or error}.",
            hint="Free some space or mend the permissions, then run it again.",
        ) from error
    try:
        yield
    finally:
        lock.release()
