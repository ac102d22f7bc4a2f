"""Keeps one Triton running: waits for its end, looks after it meanwhile, starts it again.

Theory of operation. One thread. An end nobody asked for is followed by a new start on the same
ports after 0.5 s, 1 s, 2 s, ... 30 s, and after 0.5 s again once a start has lasted 10 s with its
models answering. Nothing that goes wrong in here ends the thread: a start that fails for whatever
reason (no memory, no file descriptors, a folder that is gone) is logged and tried again, as is a
look that fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from conch.errors import ConchError

_log = structlog.get_logger()

LOOK_S = 0.3
"""Between two looks: what is missing in two of them is known within 1 s."""
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
HEALTHY_S = 10.0
"""A start after which the models answered for so long was no part of a crash loop."""


class Watched(Protocol):
    """What is kept running."""

    def ended(self, timeout_s: float) -> int | None:
        """Its exit code once it has ended; None when it runs after ``timeout_s``."""

    def look(self) -> None:
        """See whether it is well."""

    def relaunch(self) -> None:
        """Start it again, until its models answer."""


def keep(
    server: Watched,
    stopping: threading.Event,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep it running until ``stopping``; the body of the thread."""
    backoff_s, up_s = FIRST_BACKOFF_S, clock()
    while not stopping.is_set():
        code = server.ended(LOOK_S)
        if stopping.is_set():
            return
        if code is None:
            _guarded(server.look, "triton.look_failed")
            continue
        if clock() - up_s > HEALTHY_S:
            backoff_s = FIRST_BACKOFF_S
        _log.error("triton.died", exit_code=code, restart_in_s=backoff_s)
        while not stopping.wait(backoff_s):
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            if _guarded(server.relaunch, "triton.restart_failed", again_in_s=backoff_s):
                break
        up_s = clock()


def _guarded(act: Callable[[], object], event: str, **facts: object) -> bool:
    """Whether it could be done; what was in the way is logged."""
    try:
        act()
    except ConchError as error:
        _log.error(event, reason=str(error), **facts)
        return False
    except Exception as error:  # whatever it is, giving up would be worse
        _log.error(event, reason=f"{type(error).__name__}: {error}", **facts)
        return False
    return True
