"""Who may write a repository: one process at a time, and a number that only grows.

Theory of operation. A lock file that the kernel holds for a process: it goes the moment the process
dies, and stays while the process is only stopped. That is enough as long as the lock file itself is
one and the same for everybody; it is not when somebody deletes it, or on a filesystem without such
locks. So whoever takes the lock also counts up an epoch, and looks, before each write, whether
the epoch is still its own. One that slept through another's start finds a newer epoch and stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conch.errors import RepositoryError
from serving import atomic, locks
from serving.repository import Repository

WAIT_STEP_S = 0.5


class Fenced(RepositoryError):
    """Another controller has taken over; this one must not write any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write, as long as ``epoch`` is the newest."""

    path: Path
    epoch: int

    def check(self) -> None:
        """Nothing, or an error when another has taken over.

        Raises:
            Fenced: when the epoch on disk is another, or cannot be read.
        """
        try:
            now = int(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Fenced(
                f"control of {self.path.parent.parent}: {self.path.name} cannot be read ({error}), "
                "so it is not known who may write. Nothing was changed.",
                hint="Stop every controller of the repository and start one again.",
            ) from error
        if now != self.epoch:
            raise Fenced(
                f"control of {self.path.parent.parent}: epoch {self.epoch} of this controller is "
                f"over, another took over with {now}. Nothing was changed.",
                hint="Stop this one; `conch control run --wait` waits for its turn.",
            )


@contextmanager
def sole_writer(
    repository: Repository, *, wait: bool = False, stop: threading.Event | None = None
) -> Iterator[Lease]:
    """Be the one that may write this repository.

    Args:
        repository: which.
        wait: whether to wait until another has ended, or fail at once.
        stop: ends the waiting.

    Raises:
        RepositoryError: when another one holds it and ``wait`` is off, or ``stop`` was set.
    """
    busy = RepositoryError(
        f"control of {repository.root}: another control loop is running, only one may write.",
        hint="Stop it first, or use --wait, --advisory or --dry-run.",
    )
    with ExitStack() as stack:
        while True:
            try:
                lock = locks.held(repository.state / "control.lock", wait_s=0, busy=busy)
                stack.enter_context(lock)
                break
            except RepositoryError as error:
                if error is not busy or not wait or (stop is not None and stop.is_set()):
                    raise
            _pause(stop)
        yield _next(repository)


def _pause(stop: threading.Event | None) -> None:
    """A moment, or until ``stop``."""
    if stop is None:
        time.sleep(WAIT_STEP_S)
    else:
        stop.wait(WAIT_STEP_S)


def _next(repository: Repository) -> Lease:
    """The lease after the last one; the lock is held."""
    path = repository.state / "control.epoch"
    try:
        last = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # None yet, or broken. Seconds since 1970 are above any epoch that was counted from 1.
        last = int(time.time()) if path.exists() else 0
    atomic.write(
        path,
        str(last + 1).encode(),
        aside=repository.state / "tmp",
        point="control.epoch",
    )
    return Lease(path=path, epoch=last + 1)
