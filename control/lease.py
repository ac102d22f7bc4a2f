"""Who may write a repository: one process at a time, and an epoch that never comes twice.

Theory of operation. A lock file that the kernel holds for a process: it goes the moment the process
dies, and stays while the process is only stopped. That is enough as long as the lock file itself is
one and the same for everybody; it is not when somebody deletes it, or on a filesystem without such
locks. So whoever takes the lock also writes an epoch, and looks, before each write, whether it is
still its own. One that slept through another's start finds another epoch and stops. Its number
counts up, for people; the random token beside it makes it one that never was, even where the file
was lost with its number, or two read the same number at once.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conch.errors import RepositoryError
from serving import atomic, locks, pending
from serving.repository import Repository

WAIT_STEP_S = 0.5
_EPOCH = re.compile(r"(?P<number>[0-9]{1,18})(?: (?P<token>[0-9a-f]{1,64}))?\s*", re.ASCII)
"""Earlier versions wrote the number alone."""
_MOST_BYTES = 4096


class Fenced(RepositoryError):
    """Another controller has taken over; this one must not write any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write, as long as ``epoch`` and ``token`` are those on disk.

    Attributes:
        path: of the epoch's file.
        epoch: counts up.
        token: random; empty only in a file of an earlier version.
    """

    path: Path
    epoch: int
    token: str

    def check(self) -> None:
        """Nothing, or an error when another has taken over.

        Raises:
            Fenced: when the epoch on disk is another, or cannot be read.
        """
        try:
            now = _read(self.path)
        except (OSError, ValueError) as error:
            raise Fenced(
                f"control of {self.path.parent.parent}: {self.path.name} cannot be read ({error}), "
                "so it is not known who may write. Nothing was changed.",
                hint="Stop every controller of the repository and start one again.",
            ) from error
        if now != (self.epoch, self.token):
            raise Fenced(
                f"control of {self.path.parent.parent}: epoch {self.epoch} of this controller is "
                f"over, another took over with {now[0]}. Nothing was changed.",
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
        repository.remove_left()
        yield _next(repository)


def _pause(stop: threading.Event | None) -> None:
    """A moment, or until ``stop``."""
    if stop is None:
        time.sleep(WAIT_STEP_S)
    else:
        stop.wait(WAIT_STEP_S)


def _next(repository: Repository) -> Lease:
    """The lease after the last one; the lock is held."""
    path = repository.state / pending.EPOCH
    try:
        last, _ = _read(path)
    except FileNotFoundError:
        last = 0
    except (OSError, ValueError):
        last = int(time.time())  # seconds since 1970 are above any number that was counted from 1
    lease = Lease(path=path, epoch=last + 1, token=secrets.token_hex(8))
    atomic.write(
        path,
        f"{lease.epoch} {lease.token}\n".encode(),
        aside=repository.state / "tmp",
        point=pending.EPOCH,
    )
    return lease


def _read(path: Path) -> tuple[int, str]:
    """Number and token on disk.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it holds no epoch.
    """
    text = atomic.read(path, most_bytes=_MOST_BYTES).decode("utf-8")
    found = _EPOCH.fullmatch(text)
    if found is None:
        raise ValueError("it holds no epoch")
    return int(found["number"]), found["token"] or ""
