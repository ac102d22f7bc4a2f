"""One Triton process below its guard, and its log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import structlog

from conch.errors import TritonUnavailable
from serving.runtime import command

_log = structlog.get_logger()
_GUARD = Path(__file__).with_name("guard.py")
_TAIL_BYTES = 4000


def spawn(
    arguments: Sequence[str],
    *,
    shm_prefix: str,
    environment: Mapping[str, str],
    log_path: Path,
    secret: str | None,
) -> tuple[subprocess.Popen[bytes], int]:
    """The guard and Triton's pid; neither needs a folder for the log, or a disk with room.

    Args:
        arguments: the binary, and what it is given.
        shm_prefix: of the shared memory to clean up after it.
        environment: of the process.
        log_path: appended to.
        secret: among the arguments, which the log must not tell.

    Raises:
        TritonUnavailable: when the machine has no process or no memory for it.
    """
    with _open_log(log_path) as log:
        with contextlib.suppress(OSError):  # a full disk
            log.write(f"# {command.redacted(tuple(arguments), secret)}\n".encode())
            log.flush()
        try:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), shm_prefix, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environment),
                # The Python stub imports "model" from where it runs before the model's own
                # folder: a user's model.py beside a recipe would be taken for the backend's.
                cwd=log_path.parent if log_path.parent.is_dir() else "/",
                start_new_session=True,  # Ctrl-C is ours to handle: drain first
            )
        except OSError as error:
            raise TritonUnavailable(
                f"Triton: its guard did not start ({error}).",
                hint="Free memory, processes or open files.",
            ) from error
    answer = guard.stdout.readline() if guard.stdout else b""
    if not answer.strip().isdigit():
        raise TritonUnavailable(
            f"Triton: its guard did not start ({tail(log_path).strip()}).",
            hint=f"Its log: {log_path}",
        )
    return guard, int(answer)


def tail(log_path: Path) -> str:
    """The last lines of the log."""
    with contextlib.suppress(OSError), log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - _TAIL_BYTES))
        return log.read().decode(errors="replace")
    return ""


def last_words(log: str) -> str:
    """The error lines at the end of a log, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E", "error"))]
    return " | ".join((errors or lines)[-3:])


def _open_log(log_path: Path) -> BinaryIO:
    """The log to append to, its folder made again if it is gone; else nowhere, and said."""
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        return log_path.open("ab")
    except OSError as error:
        _log.error("triton.log_lost", log=str(log_path), reason=str(error))
        return Path(os.devnull).open("ab")
