"""``conch control run`` as a user starts it, and its ticks as they come."""

from __future__ import annotations

import json
import os
import signal
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
from perf.replay_result import ReplayResult
from serving.runtime.endpoint import ENV_ADMIN_KEY, ENV_METRICS_URL, ENV_URL, Endpoint

START_S = 30.0


@dataclass(slots=True)
class Watched:
    """Ticks of a running ``conch control run --jsonl``, as they come, and its CPU seconds."""

    ticks: list[dict[str, Any]] = field(default_factory=list)
    cpu_s: float = 0.0
    first: threading.Event = field(default_factory=threading.Event)


@contextmanager
def controlled(endpoint: Endpoint, policy: Path, repository: Path, log: Path) -> Iterator[Watched]:
    """``conch control run`` as its own process, just as a user would start it.

    Raises:
        LoadError: when it does not look at the server within 30 s; with its last words.
    """
    watched = Watched()
    environment = {
        **os.environ,
        ENV_URL: endpoint.grpc_url,
        ENV_METRICS_URL: endpoint.metrics_url,
        ENV_ADMIN_KEY: endpoint.admin_key or "",
    }
    command = [sys.executable, "-c", "from cli.main import main; main()", "-v", "control", "run"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, str(policy), "--jsonl", "--repository", str(repository)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        ) as process,
    ):
        reader = threading.Thread(target=_read, args=(process, watched), daemon=True)
        reader.start()
        try:
            until = time.monotonic() + START_S
            while not watched.first.wait(0.1) and process.poll() is None:
                if time.monotonic() > until:
                    break
            if not watched.first.is_set():
                raise LoadError(
                    f"conch control run: no look at the server within {START_S:.0f} s "
                    f"({log.read_text()[-300:].strip() or 'no message'}).",
                    hint=f"See {log}.",
                )
            yield watched
        finally:
            if process.poll() is None:
                used = psutil.Process(process.pid).cpu_times()
                watched.cpu_s = used.user + used.system
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(timeout=5)


def _read(process: subprocess.Popen[str], watched: Watched) -> None:
    """Take ticks until the process ends."""
    assert process.stdout is not None  # noqa: S101  # PIPE was asked for
    for line in process.stdout:
        watched.ticks.append(json.loads(line))
        watched.first.set()


def to_trace_time(at_s: float, replayed: ReplayResult) -> float:
    """A wall clock time on the trace's axis."""
    return at_s - (time.time() - time.monotonic()) - replayed.epoch_monotonic_s
