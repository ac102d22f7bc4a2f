"""A server with scripted models that a test changes while they serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from serving import model_config
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer

X = {"x": np.ones((1, 4), np.float32)}

Served = tuple[Repository, TritonClient, Endpoint]


def serve(
    root: Path,
    start_server: StartServer,
    connect: Callable[[TritonServer], TritonClient],
    *,
    settled: Sequence[str],
) -> Served:
    """(repository, client, endpoint) of a server with what was published there.

    The first load of a model leaves a ``__pycache__`` in its folder: a newer file, for which the
    next change would be a reload. One reload later it is old: so it is for the ``settled`` models.
    """
    server = start_server(root)
    repository, client = Repository(root), connect(server)
    for name in settled:
        config = model_config.with_parameter(repository.read_config(name), "first", "reload")
        repository.write_config(name, config, reason="first")
        client.load(name)
    return repository, client, server.endpoint


def serve_some(client: TritonClient, name: str, count: int = 5) -> None:
    """So many inferences, all of them counted."""
    for _ in range(count):
        client.infer(name, X)
    # Statistics are counted after the answer is sent.
    until = time.monotonic() + 5
    seen = client.statistics(name).inference_count
    while seen < count and time.monotonic() < until:
        time.sleep(0.02)
        seen = client.statistics(name).inference_count
