"""A Python model that answers several requests with one error object ends its server."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.client import InferenceFailed, TritonClient
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import StartServer, wait_until
from tests.integration.load import ONES, Load

ONE_FOR_ALL = "InferenceResponse(error=error)"
ONE_EACH = 'InferenceResponse(error=pb_utils.TritonError("broken on purpose"))'
GUARD_SAYS_KILLED_BY = 128  # and the signal's number: ``serving.runtime.guard``


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer) -> TritonServer:
    """Two models that fail every batch, each in its way; nobody restarts it."""
    for name in ("one_for_all", "one_each"):
        scripted.publish(tmp_path, name, batch_s=0.1, broken_batch=8)
    code = tmp_path / "one_each" / "1" / "model.py"
    assert ONE_FOR_ALL in code.read_text()
    code.write_text(code.read_text().replace(ONE_FOR_ALL, ONE_EACH))
    return start_server(tmp_path, restart=False)


def test_one_error_object_for_several_requests_ends_triton_by_a_signal(
    server: TritonServer, connect: Callable[[TritonServer], TritonClient]
) -> None:
    """So probes go one at a time; for one request, or with an object for each, it lives."""
    client = connect(server)
    for name in ("one_for_all", "one_each"):
        with pytest.raises(InferenceFailed, match="broken on purpose"):
            client.infer(name, {"x": ONES})
    with Load(server.endpoint.grpc_url, "one_each") as load:
        assert wait_until(lambda: load.answered > 50)
    assert {"broken on purpose" in text for _, text in load.failures} == {True}
    assert server.alive()
    with Load(server.endpoint.grpc_url, "one_for_all"):
        assert server.ended(30) == GUARD_SAYS_KILLED_BY + signal.SIGSEGV
