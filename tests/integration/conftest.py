"""A real Triton per module, on free loopback ports, with the log kept in pytest's temp folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.client import TritonClient
from serving.runtime.supervisor import TritonServer

StartServer = Callable[..., TritonServer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder is an integration test."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether the condition came true in time."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts real servers that live to the module's end: ``start_server(repository, ...)``.

    Nothing is in flight by then, so they end at once: Triton looks only once a second whether its
    models are unloaded, and would take 3 s. What a stop owes its requests is in ``test_runtime``.
    """
    with contextlib.ExitStack() as stack:

        def start(repository: Path, **settings: Any) -> TritonServer:
            log = tmp_path_factory.mktemp("triton") / "triton.log"
            settings = {"name": "test", "log_path": log, "exit_timeout_s": 0, **settings}
            return stack.enter_context(TritonServer(repository, **settings))

        yield start


@pytest.fixture(scope="session")
def export_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all runs of the examples: what one module built, the next one finds."""
    return tmp_path_factory.mktemp("export_work")


@pytest.fixture(scope="module")
def connect() -> Iterator[Callable[[TritonServer], TritonClient]]:
    """Clients with the server's key, closed at the end of the module."""
    with contextlib.ExitStack() as stack:

        def open_client(server: TritonServer) -> TritonClient:
            endpoint = server.endpoint
            return stack.enter_context(
                TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key)
            )

        yield open_client


@pytest.fixture(scope="module")
def client(server: TritonServer, connect: Callable[[TritonServer], TritonClient]) -> TritonClient:
    """A client of the module's ``server``, with its key."""
    return connect(server)
