"""What ``conch control run`` costs beside a real Triton: CPU of its whole process, tick by tick.

The models are emulated accelerators under a light load, as a controller costs the same whatever the
models compute: a look, a decision and a line in the journal for each of them, each tick.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from conch.errors import ConchError
from perf.bench import emulated
from perf.bench.control.process import controller
from perf.bench.emulated import EmulatedModel
from serving.client import TritonClient
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer

TICK_S = 1.0
SETTLE_S = 10.0
"""Imports, the compiler's first calls and the first plan are over by then."""
REQUESTS_PER_S = 4.0
LOAD_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveResult:
    """What the controller's process used.

    Attributes:
        models: under control.
        tick_s: between two looks at each.
        seconds: that were measured, after the first ``SETTLE_S``.
        cpu_s: user and system time of the process in them.
        ticks: looks in all.
        answered: requests of the light load.
    """

    models: int
    tick_s: float
    seconds: float
    cpu_s: float
    ticks: int
    answered: int

    @property
    def core_fraction(self) -> float:
        """Of one core."""
        return self.cpu_s / self.seconds


def run(*, models: int = 5, seconds: float = 30.0, settle_s: float = SETTLE_S) -> LiveResult:
    """Measure it on a server of its own.

    Raises:
        ConchError: when the server or the controller does not start.
    """
    names = [f"emulated-{number}" for number in range(models)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conch-live-")))
        server = stack.enter_context(_server(folder, names))
        policy = folder / "policy.yaml"
        policy.write_text(policy_text(names), encoding="utf-8")
        answered = stack.enter_context(_light_load(server.endpoint, names))
        beside = stack.enter_context(
            controller(
                server.endpoint,
                policy,
                folder / "repository",
                folder / "control.log",
                longest_s=settle_s + seconds + 60.0,
            )
        )
        time.sleep(settle_s)
        begun_s, before_s, looks = time.monotonic(), beside.cpu_s(), len(beside.ticks)
        time.sleep(seconds)
        return LiveResult(
            models=models,
            tick_s=TICK_S,
            seconds=time.monotonic() - begun_s,
            cpu_s=beside.cpu_s() - before_s,
            ticks=len(beside.ticks) - looks,
            answered=answered[0],
        )


def policy_text(names: Sequence[str]) -> str:
    """The policy file that a user would write for these models."""
    section = {"slo": 0.4, "max_instances": 4, "max_batch_size": 8, "cores": 4, "rebatch": False}
    data = {"version": 1, "tick": TICK_S, "models": dict.fromkeys(names, section)}
    return yaml.safe_dump(data, sort_keys=False)


@contextmanager
def _server(folder: Path, names: Sequence[str]) -> Iterator[TritonServer]:
    """A Triton with these emulated models."""
    root = folder / "repository"
    root.mkdir()
    for name in names:
        emulated.publish(EmulatedModel(name=name, alpha_s=0.008, beta_s=0.032, load_s=LOAD_S), root)
    with emulated.served(root, folder) as server:
        yield server


@contextmanager
def _light_load(endpoint: Endpoint, names: Sequence[str]) -> Iterator[list[int]]:
    """A few requests a second to each model; gives the number that was answered so far."""
    stop, answered = threading.Event(), [0]
    item = {"x": np.zeros((1, 1), dtype=np.float32)}

    def ask() -> None:
        with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
            while not stop.wait(1.0 / REQUESTS_PER_S / len(names)):
                name = names[answered[0] % len(names)]
                try:
                    client.infer(name, item)
                except ConchError:
                    return
                answered[0] += 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join(timeout=5)
