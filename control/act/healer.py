"""Has dead Python stubs healed where nobody else looks after the server.

A server on this machine is looked at by its processes, several times a second, as ``conch serve``
looks at its own: whoever comes second finds the model healed under its lock. Of a server elsewhere,
or whose processes cannot be told apart, only the answers tell, so that is asked when requests of a
model fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import structlog

from conch.errors import ConchError
from conch.loopback import is_loopback
from control.act.outcome import said
from control.core.load.windows import Interval
from serving import heal
from serving.client import TritonClient
from serving.heal import LeftUnloaded
from serving.repository import Repository
from serving.runtime import stubs
from serving.runtime.endpoint import Endpoint
from serving.runtime.stub_watch import StubWatch

log = structlog.get_logger()

LOOK_S = 0.4
AGAIN_S, LONGEST_S = 5.0, 300.0
"""Between two rounds of probes for failures of one model; twice as long after each in vain: those
of a model that refuses what it is sent are no dead stub's."""
_TRITON = "tritonserver"
_BACKENDS_FLAG = "--backend-directory="
_BACKENDS = "/opt/tritonserver/backends"
"""Where Triton looks without the flag."""


class Healer:
    """Looks after the stubs of one server; use it as a context manager."""

    def __init__(
        self,
        endpoint: Endpoint,
        repository: Repository,
        connect: Callable[[], TritonClient],
        *,
        pid: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            endpoint: of the server.
            repository: that it loads from.
            connect: makes a client with the admin key.
            pid: of the server's process where it is one of ours; None elsewhere.
            clock: monotonic, s.
        """
        self._endpoint = endpoint
        self._repository = repository
        self._connect = connect
        self._pid = pid
        self._clock = clock
        self._stop = threading.Event()
        self._next_s: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}
        self._asking: set[str] = set()
        self._left: dict[str, LeftUnloaded] = {}
        self._watched: StubWatch | None = None

    def __enter__(self) -> Healer:
        threading.Thread(target=self._run, name="conch-healer", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # not waited for: a heal may hang with the server

    def looked(self, model: str, newest: Sequence[Interval]) -> None:
        """Where requests of the model fail: ask whether a dead stub is why, in another thread."""
        now_s = self._clock()
        # What a queue's limit refuses is no dead stub's.
        failing = any(one.failed > one.rejected for one in newest) or model in self._left
        watched = self._watched
        if not failing or (watched and watched.knows(model)):
            return
        if model in self._asking or now_s < self._next_s.get(model, now_s):
            return
        rps = max((one.arrivals / one.span_s for one in newest if one.span_s > 0.0), default=0.0)
        thread = threading.Thread(
            target=self._ask, args=(model, rps), name="conch-healer-ask", daemon=True
        )
        self._asking.add(model)
        try:
            thread.start()
        except BaseException:  # no more threads: at a later look
            self._asking.discard(model)
            raise

    def _ask(self, model: str, rps: float) -> None:
        """Probe the model, and heal it where the failures' text says that a stub is dead."""
        pause_s = AGAIN_S
        try:
            with self._connect() as client:
                if left := self._left.get(model):
                    heal.load_again(client, self._repository, model, left)
                    del self._left[model]
                way = heal.heal_by_answers(client, self._repository, model, rps=rps)
            if way is None:
                pause_s = min(LONGEST_S, 2.0 * self._pause_s.get(model, AGAIN_S / 2.0))
        except ConchError as error:
            if isinstance(error, LeftUnloaded):
                self._left[model] = error
            log.warning("model.heal_waits", model=model, reason=error.message, hint=error.hint)
        except Exception as error:  # it must not end with a traceback amid the log
            log.error("model.heal_failed", model=model, reason=said(error))
        finally:
            self._pause_s[model], self._next_s[model] = pause_s, self._clock() + pause_s
            self._asking.discard(model)

    def _run(self) -> None:
        """Look at the processes, as long as there are any to be seen."""
        of: int | None = None
        while not self._stop.wait(LOOK_S):
            try:
                pid = self._pid() or of
                if pid is None or not psutil.pid_exists(pid):
                    pid, self._watched = listener(self._endpoint), None
                of = pid
                if pid is None:
                    self._stop.wait(AGAIN_S)
                    continue
                self._watched = self._watched or self._watch(pid)
                self._watched.look(pid)
            except Exception as error:  # at the next look
                log.warning("stubs.not_seen", reason=said(error))
                self._stop.wait(AGAIN_S)

    def _watch(self, pid: int) -> StubWatch:
        """The watch over this process's stubs."""
        words = psutil.Process(pid).cmdline()
        told = (word.removeprefix(_BACKENDS_FLAG) for word in words if word.startswith("--backend"))
        folder = next((word for word in told if word.startswith("/")), _BACKENDS)
        return StubWatch(self._repository, stubs.backends(Path(folder)), self._connect, self._stop)


def listener(endpoint: Endpoint) -> int | None:
    """The Triton on this machine that listens on the server's gRPC port; None where none is seen.

    What other users' processes listen on only root may see. Another program there (ssh, kubectl,
    docker-proxy) hands the port to a server elsewhere, of which no process is to be seen here.
    """
    if not is_loopback(endpoint.host):
        return None
    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in found:
        here = connection.laddr and connection.laddr.port == endpoint.grpc_port
        if here and connection.status == psutil.CONN_LISTEN and connection.pid:
            pid = int(connection.pid)
            if _is_triton(pid):
                return pid
    return None


def _is_triton(pid: int) -> bool:
    """Whether the process is a Triton: by its name, or as one that has stubs."""
    try:
        return psutil.Process(pid).name().startswith(_TRITON) or bool(stubs.processes(pid))
    except psutil.Error:
        return False
