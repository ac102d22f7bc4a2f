"""``conch control run`` in a process of its own, just as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from conch.errors import LoadError
from serving.runtime.endpoint import ENV_ADMIN_KEY, ENV_METRICS_URL, ENV_URL, Endpoint

START_S = 60.0
_STOP_S = 60.0
_MAIN = "from cli.main import main; main()"
# numpy's and BLAS's idle threads spin; one controller needs none of them.
_FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(slots=True)
class Controller:
    """A running ``conch control run --jsonl``.

    Attributes:
        process: the process.
        ticks: what it said so far, one object a tick.
        first: set when it has said something.
    """

    process: subprocess.Popen[str]
    ticks: list[dict[str, Any]] = field(default_factory=list)
    first: threading.Event = field(default_factory=threading.Event)

    def cpu_s(self) -> float:
        """CPU seconds that it has used; nan when it runs no more."""
        try:
            used = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return float("nan")
        return float(used.user + used.system)


@contextmanager
def controller(
    endpoint: Endpoint,
    policy: Path | None,
    repository: Path,
    log: Path,
    *,
    longest_s: float,
    slo_s: float | None = None,
) -> Iterator[Controller]:
    """The control loop, from its first look at the server to the end of the block.

    A change that is in flight at the end is waited for. After ``longest_s`` it ends by itself, for
    the case that nobody is left to end it. Without a policy it has the objective ``slo_s`` alone.

    Raises:
        LoadError: when it does not look at the server within a minute; with its last words.
    """
    environment = {
        **os.environ,
        **_FEW_THREADS,
        ENV_URL: endpoint.grpc_url,
        ENV_METRICS_URL: endpoint.metrics_url,
        ENV_ADMIN_KEY: endpoint.admin_key or "",
    }
    arguments = ["control", "run", "--jsonl", "--repository", str(repository)]
    if policy is not None:
        arguments.append(str(policy))
    if slo_s is not None:
        arguments += ["--slo", f"{slo_s:g}s"]
    arguments += ["--duration", f"{longest_s:g}s"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", _MAIN, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to handle
        ) as process,
    ):
        running = Controller(process)
        reader = threading.Thread(target=_read, args=(running,), daemon=True)
        reader.start()
        try:
            _wait_first(running, log)
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(timeout=5)


def _wait_first(running: Controller, log: Path) -> None:
    """Return when it has looked at the server once."""
    until_s = time.monotonic() + START_S
    while not running.first.wait(0.1) and running.process.poll() is None:
        if time.monotonic() > until_s:
            break
    if not running.first.is_set():
        said = log.read_text(errors="replace")[-300:].strip() or "no message"
        raise LoadError(
            f"conch control run: no look at the server within {START_S:.0f} s ({said}).",
            hint=f"See {log}.",
        )


def _read(running: Controller) -> None:
    """Take ticks until the process ends."""
    assert running.process.stdout is not None  # PIPE was asked for
    for line in running.process.stdout:
        running.ticks.append(json.loads(line))
        running.first.set()
