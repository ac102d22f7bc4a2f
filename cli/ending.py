"""The end of a command that a person asked for: soon, whatever hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

PATIENCE_S = 9.5
"""Whoever asked for the end of a controller waits 10 s at most."""


def on_signal(stop: threading.Event) -> None:
    """Have the first SIGINT or SIGTERM set ``stop``, and the second end the process at once.

    A process that has not ended some seconds after the first is ended: files are replaced in one
    step, so each is whole at any moment, and the next controller brings order.
    """

    def asked(_: int, __: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        stop.set()
        timer = threading.Timer(PATIENCE_S, _end)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)


def _end() -> None:
    """End without waiting for anything."""
    sys.stderr.write("Ended without waiting any longer: the server does not answer.\n")
    sys.stderr.flush()
    os._exit(1)
