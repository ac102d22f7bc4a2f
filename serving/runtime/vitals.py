"""Whether a Triton that runs is also well: not stopped by a signal, and answering.

A process that was stopped (SIGSTOP, ``kill -STOP``) neither ends nor answers, so who waits for its
end waits for ever. It is continued after a while, which is long enough for whoever stopped it on
purpose to be done with it, and short enough for those who wait for an answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

import psutil
import structlog

_log = structlog.get_logger()

CONTINUE_S = 10.0
"""How long it may be stopped."""
SILENT_S = 30.0
"""How long it may not answer before that is said: a load that takes all cores is shorter."""
ASK_S = 5.0
"""Between two questions whether it is live."""


class Vitals:
    """Of one Triton at a time; ``look`` is called twice a second or so."""

    def __init__(
        self, live: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing was seen yet.

        Args:
            live: asks the server, with a short deadline.
            clock: monotonic, s.
        """
        self._live = live
        self._clock = clock
        self._stopped_s: dict[int, float] = {}
        self._answered_s = self._asked_s = clock()
        self._said = False

    def started(self) -> None:
        """It was started anew: nothing seen before counts."""
        self._stopped_s = {}
        self._answered_s = self._asked_s = self._clock()
        self._said = False

    def look(self, processes: Sequence[int]) -> None:
        """One look at these processes of it, and now and then a question."""
        now_s = self._clock()
        stopped = {pid for pid in processes if _is_stopped(pid)}
        for pid in stopped - self._stopped_s.keys():
            _log.error("triton.stopped_by_signal", pid=pid, continued_in_s=CONTINUE_S)
        self._stopped_s = {pid: self._stopped_s.get(pid, now_s) for pid in stopped}
        for pid, since_s in list(self._stopped_s.items()):
            if now_s - since_s >= CONTINUE_S:
                _log.warning("triton.continued", pid=pid, stopped_s=round(now_s - since_s, 1))
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)
                del self._stopped_s[pid]
        if not stopped and now_s - self._asked_s >= ASK_S:
            self._ask(now_s)

    def _ask(self, now_s: float) -> None:
        """Whether it is live; said once when it has not been for long, and when it is again."""
        self._asked_s = now_s
        if self._live():
            if self._said:
                silent_s = round(now_s - self._answered_s, 1)
                _log.warning("triton.answers_again", silent_s=silent_s)
            self._answered_s, self._said = now_s, False
        elif not self._said and now_s - self._answered_s >= SILENT_S:
            self._said = True
            _log.error("triton.not_live", silent_s=round(now_s - self._answered_s, 1))


def _is_stopped(pid: int) -> bool:
    """Whether a signal stopped the process; one that a debugger holds is left to it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
