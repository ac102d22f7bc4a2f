"""The Python stubs of a server: those that live, their death, and that they were healed."""

from __future__ import annotations

import os
import signal

from serving.repository import Repository
from serving.runtime import stubs
from serving.runtime.supervisor import TritonServer


def alive(server: TritonServer, repository: Repository, model: str) -> list[int]:
    """Pids of the model's stubs, the newest of each name."""
    seen = stubs.look(server.endpoint.pid or 0, repository.root, {}).values()
    own = sorted((s for s in seen if s.model == model), key=lambda stub: stub.started_s)
    return [s.pid for s in {s.instance: s for s in own}.values() if s.alive]


def kill(pids: list[int]) -> None:
    """As the kernel does when memory is out."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def healed(logs: list[dict[str, object]], model: str) -> bool:
    """Whether the log says so."""
    return any(e["event"] == "model.healed" and e["model"] == model for e in logs)
