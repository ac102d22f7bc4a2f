"""One Triton process: started, known ready by inference, restarted when it dies, stopped clean.

Theory of operation: Triton runs below ``guard.py``, which ends it (and its Python stubs and shared
memory) when this process is gone, however that came. A thread (``watch``) starts it again when it
ends, continues it when a signal stopped it (``vitals``), and has dead Python stubs healed
(``stub_watch``). Before each start a change of a config that has not proved itself is taken back
(``serving.pending``): it may be what the last one died of.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import structlog

from conch import paths
from conch.errors import ConchError, ConfigError, TritonUnavailable
from serving import engines, hazards, pending, slots
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import (
    backend_dir,
    command,
    endpoint,
    find,
    readiness,
    spawn,
    stub_python,
    stubs,
    watch,
)
from serving.runtime.command import LOOPBACK, ServerOptions
from serving.runtime.endpoint import Endpoint
from serving.runtime.find import TritonBinary
from serving.runtime.ports import free_ports
from serving.runtime.readiness import ModelReadiness
from serving.runtime.stub_watch import StubWatch
from serving.runtime.vitals import Vitals

_log = structlog.get_logger()
_LIVE_S = 1.0
_DIED = "Triton died within the settling time of this change"


class TritonServer:
    """A local Triton on loopback; use it as a context manager.

    Example:
        >>> with TritonServer(Path("model_repository")) as server:  # doctest: +SKIP
        ...     print(server.endpoint.grpc_url, [m.name for m in server.models if m.ready])
    """

    def __init__(
        self,
        repository: Path,
        *,
        models: Sequence[str] | None = None,
        name: str = "local",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        summary_latencies: bool = True,
        cache_bytes: int = 0,
        slots: int | None = None,
        exit_timeout_s: int = 10,
        start_timeout_s: float = 180.0,
        restart: bool = True,
        log_path: Path | None = None,
        binary: TritonBinary | None = None,
        on_restart: Callable[[Endpoint], None] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            repository: the model repository.
            models: to load at the start and after a restart; None for all.
            http_port: 0 for a free one; so the other ports.
            slots: ``ServerOptions.slots``.
            exit_timeout_s: how long running inferences are waited for at the stop.
            start_timeout_s: for the process and the first load of the models.
            restart: look after it: start it again when it dies, heal models with dead stubs.
            log_path: Triton's log; by default ``<cache>/logs/<name>.log``, overwritten.
            on_restart: called with the new endpoint after each restart (from another thread).

        Raises:
            ConfigError: when the repository is no folder.
            TritonUnavailable: when there is no Triton.
        """
        if not repository.is_dir():
            raise ConfigError(
                f"model repository: {str(repository)!r}, must be a folder.",
                hint="Publish a model with `conch export run`, or give --repository.",
            )
        self._binary = binary or find.find()
        self._python = stub_python.bin_dir(self._binary)
        self._asked_models = None if models is None else tuple(models)
        self._asked_ports = (http_port, grpc_port, metrics_port)
        self._name = endpoint.check_name(name)
        self._options = ServerOptions(
            repository=repository.resolve(),
            backend_directory=backend_dir.prepare(self._binary),
            cache_directory=self._binary.caches,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            admin_key=secrets.token_hex(16),
            exit_timeout_s=exit_timeout_s,
            summary_latencies=summary_latencies,
            cache_bytes=cache_bytes,
            slots=slots,
            shm_prefix=f"conch_{secrets.token_hex(4)}_",
        )
        self._start_timeout_s = start_timeout_s
        self._restart = restart
        self._on_restart = on_restart
        self.log_path = (log_path or paths.cache_dir() / "logs" / f"{self._name}.log").absolute()
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._stopping = threading.Event()
        self._vitals = Vitals(self._is_live)
        self._stubs = StubWatch(
            Repository(self._options.repository),
            stubs.backends(self._options.backend_directory),
            self._connect,
            self._stopping,
        )
        self._watcher: threading.Thread | None = None
        self.models: tuple[ModelReadiness, ...] = ()
        self.restart_count = 0

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers now."""
        options = self._options
        return Endpoint(
            name=self._name,
            host=LOOPBACK,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            admin_key=options.admin_key,
            pid=self._pid,
            repository=options.repository,
            slots=options.slots,
        )

    @property
    def binary(self) -> TritonBinary:
        """The Triton that runs."""
        return self._binary

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until every model that loads has answered an inference.

        A model that does not load is in ``models`` with its reason; the others are served.

        Raises:
            TritonUnavailable: when the process ends or does not answer in time; with its log's end.
        """
        self._stopping.clear()
        ports = free_ports(self._asked_ports)
        self._options = replace(
            self._options, http_port=ports[0], grpc_port=ports[1], metrics_port=ports[2]
        )
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.write_bytes(b"")
        try:
            self._launch()
        except BaseException:
            self.stop(drain_s=0.0)
            raise
        if self._restart:
            self._watcher = threading.Thread(
                target=watch.keep, args=(self, self._stopping), name="triton-watch", daemon=True
            )
            self._watcher.start()

    def stop(self, *, drain_s: float = 5.0) -> None:
        """Wait for running inferences, ask it to end, wait for the end; nothing of it is left.

        Args:
            drain_s: at most so long without new load is waited for before Triton closes its
                ports, which it does at once when asked to end.
        """
        self._stopping.set()
        guard = self._guard
        if guard is not None and guard.poll() is None:
            self._drain(drain_s)
            self._signal(signal.SIGTERM)
            try:
                guard.wait(self._options.exit_timeout_s + 20)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
        self._close(guard)
        if self._watcher is not None:
            self._watcher.join(timeout=self._start_timeout_s)
            self._close(self._guard)  # a restart may have been under way
        self._pid = None

    def alive(self) -> bool:
        """Whether the process runs; whether a model answers is ``serving.probe``'s to say."""
        return self._guard is not None and self._guard.poll() is None

    def log_tail(self) -> str:
        """The last lines of Triton's log."""
        return spawn.tail(self.log_path)

    def _launch(self) -> None:
        """One process, up to the answer of every model."""
        self._take_back()
        left_out = self._leave_out()
        line = command.build(self._options, self._binary.help_text())
        if line.left_out:
            _log.warning("triton.flags_left_out", flags=line.left_out)
        self._guard, self._pid = spawn.spawn(
            [str(self._binary.path), *line.arguments],
            shm_prefix=self._options.shm_prefix,
            environment=self._environment(),
            log_path=self.log_path,
            secret=self._options.admin_key,
        )
        try:
            readiness.wait_live(self.endpoint, self._wanted_alive, self._start_timeout_s)
            tried = readiness.check(self.endpoint, self._options.models)
        except TritonUnavailable as error:
            raise TritonUnavailable(
                f"{error.message} {spawn.last_words(self.log_tail())}",
                hint=f"Its log: {self.log_path}",
            ) from error
        self.models = tuple(sorted((*tried, *left_out), key=lambda model: model.name))
        # At the first start whoever starts it says so; after a restart nobody else would.
        for model in self.models if self._watcher is not None else ():
            if model.left_out:
                _log.warning("model.left_out", model=model.name, reason=model.reason)
            elif not model.ready:
                _log.warning("model.not_ready", model=model.name, reason=model.reason)
        self._vitals.started()

    def _leave_out(self) -> list[ModelReadiness]:
        """Have Triton load all but the models that it cannot serve; gives those, with the reason.

        Looked at before each start: an engine may have been built since the last one, and a config
        may have been given a name since that a shell would read.
        """
        repository = Repository(self._options.repository)
        reasons = engines.left_out(repository, self._options.backend_directory)
        if self._options.slots is not None:
            reasons |= slots.left_out(repository, self._options.slots)
        reasons |= hazards.left_out(repository)
        chosen = self._asked_models
        asked = sorted({*repository.models(), *reasons}) if chosen is None else chosen
        kept = tuple(name for name in asked if name not in reasons)
        self._options = replace(self._options, models=kept)
        return [
            ModelReadiness(name=name, probe_s=None, reason=reasons[name], left_out=True)
            for name in asked
            if name in reasons
        ]

    def _wanted_alive(self) -> bool:
        """Whether a start may go on: the process runs and nobody asked for its end."""
        return self.alive() and not self._stopping.is_set()

    def _environment(self) -> dict[str, str]:
        """The environment: the stubs take their packages from the first ``python3`` on PATH."""
        return os.environ | {
            "PATH": os.pathsep.join([str(self._python), os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": self._binary.ld_library_path(),
            "PYTHONUNBUFFERED": "1",
        }

    def ended(self, timeout_s: float) -> int | None:
        """Its exit code once it has ended; None when it still runs after ``timeout_s``."""
        if self._guard is None:
            return -1
        try:
            return self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def look(self) -> None:
        """See whether it is well: not stopped by a signal, answering, its stubs alive."""
        guard, triton = self._guard, self._pid
        if guard is None or triton is None:
            return
        self._vitals.look([guard.pid, triton])
        self._stubs.look(triton)

    def relaunch(self) -> None:
        """Start it again on the same ports; for ``watch``, after it has ended.

        Raises:
            TritonUnavailable: when it does not start.
        """
        self._close(self._guard)
        try:
            self._launch()
        except BaseException:
            self._close(self._guard)
            raise
        self.restart_count += 1
        _log.warning("triton.restarted", pid=self._pid, grpc_url=self.endpoint.grpc_url)
        if self._on_restart is not None:
            try:
                self._on_restart(self.endpoint)
            except Exception as error:  # it serves again: that is what counts
                _log.error("triton.restart_not_told", reason=str(error))

    def _connect(self) -> TritonClient:
        """A client with the key."""
        return TritonClient(self.endpoint.grpc_url, admin_key=self._options.admin_key)

    def _is_live(self) -> bool:
        """Whether it answers at all."""
        with TritonClient(self.endpoint.grpc_url, deadline_s=_LIVE_S) as client:
            return client.live()

    def _take_back(self) -> None:
        """Bring back what was before each change that has not proved itself.

        At a first start beside another server of this repository the change is that one's to prove.
        """
        repository = Repository(self._options.repository)
        if self._watcher is None and endpoint.serving(repository.root, endpoint.running()):
            return
        for change in pending.every(repository):
            try:
                if pending.revert(repository, change, why=_DIED):
                    _log.warning(
                        "config.taken_back",
                        model=change.model,
                        revision=change.revision,
                        previous=change.previous,
                    )
            except ConchError as error:
                _log.error("config.not_taken_back", model=change.model, reason=str(error))

    def _drain(self, drain_s: float) -> None:
        """Wait until no model has finished an inference for a moment, or ``drain_s`` is over."""
        until_s = time.monotonic() + drain_s
        seen: dict[str, int] | None = None
        try:
            with TritonClient(self.endpoint.grpc_url, deadline_s=1.0) as client:
                ready = [model.name for model in self.models if model.ready]
                while time.monotonic() < until_s:
                    now = {name: client.statistics(name).success_count for name in ready}
                    if now == seen:
                        return
                    seen = now
                    time.sleep(0.2)
        except ConchError:
            return  # it does not answer: there is nothing to wait for

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to Triton itself."""
        with contextlib.suppress(ProcessLookupError):
            if self._pid is not None and psutil.pid_exists(self._pid):
                os.kill(self._pid, number)

    @staticmethod
    def _close(guard: subprocess.Popen[bytes] | None) -> None:
        """Let the guard finish: the end of its stdin makes it end Triton if it still runs."""
        if guard is None:
            return
        for pipe in (guard.stdin, guard.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        guard.wait()
