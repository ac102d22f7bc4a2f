"""A real Triton under our supervision: readiness, restart, restricted admin APIs, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from serving.client import ADMIN_HEADER, TritonClient
from serving.probe import probe
from serving.runtime import endpoint as endpoints
from serving.runtime import prometheus, wheel
from serving.runtime.guard import SHARED_MEMORY
from serving.runtime.supervisor import TritonServer
from serving.runtime.wheel import PinnedWheel
from tests.integration.conftest import StartServer, wait_until
from tests.integration.onnx_models import publish_double

NAME = "conch-test"
CONCH = [sys.executable, "-c", "from cli.main import main; main()"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and one that does not load."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("double", "spare", "broken"):
        publish_double(root, name)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"nonsense")
    return root


@pytest.fixture(scope="module")
def server(start_server: StartServer, repository: Path) -> TritonServer:
    """A supervised Triton."""
    return start_server(repository)


def post(url: str, key: str | None = None) -> int:
    """The status of an empty POST."""
    headers = {ADMIN_HEADER: key} if key else {}
    return requests.post(url, headers=headers, timeout=20).status_code


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below one."""
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def stubs_of(pid: int, model: str) -> list[psutil.Process]:
    """The Python stubs of one model below a Triton."""
    found = []
    for process in descendants(pid):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "stub" in Path(line[0]).name and any(f"{model}_0" in part for part in line):
                found.append(process)
    return found


def test_server_is_ready_by_inference(server: TritonServer) -> None:
    """After the start each model has answered, and the one that cannot load has a reason."""
    states = {model.name: model for model in server.models}
    assert set(states) == {"double", "spare", "broken"}
    assert states["double"].ready
    assert states["spare"].ready
    assert not states["broken"].ready
    assert "not loaded" in states["broken"].reason


def test_admin_apis_need_the_key_over_http(server: TritonServer) -> None:
    """Load without the key, or with a wrong one, is refused; inference metadata stays open."""
    url = server.endpoint.http_url
    load = f"{url}/v2/repository/models/double/load"
    assert post(load) == 403
    assert post(load, "wrong") == 403
    assert post(load, server.endpoint.admin_key) == 200
    assert post(f"{url}/v2/systemsharedmemory/unregister") == 403
    assert requests.get(f"{url}/v2/models/double/stats", timeout=5).status_code == 200


def test_admin_apis_need_the_key_over_grpc(server: TritonServer, client: TritonClient) -> None:
    """The same over gRPC; our client sends the key."""
    with (
        triton.InferenceServerClient(server.endpoint.grpc_url) as stranger,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        stranger.load_model("double")
    client.load("double")
    with TritonClient(server.endpoint.grpc_url) as keyless, pytest.raises(ConchError):
        keyless.load("double")


def test_server_listens_on_loopback_only(server: TritonServer) -> None:
    """Every port it listens on is bound to 127.0.0.1."""
    assert server.endpoint.pid
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(server.endpoint.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_probe_notices_a_dead_stub_that_triton_calls_ready(
    start_server: StartServer,
    repository: Path,
    connect: Callable[[TritonServer], TritonClient],
) -> None:
    """kill -9 of a stub: ready stays true, the probe fails; load does not heal, unload + load does.

    Triton 2.51 never ends that unload (the dead stub's model stays UNLOADING), but loads anew.
    With nobody who looks after it: else it is healed at once.
    """
    server = start_server(repository, restart=False)
    client = connect(server)
    config = client.config("spare")
    assert server.endpoint.pid
    (stub,) = stubs_of(server.endpoint.pid, "spare")
    stub.kill()
    with pytest.raises(ConchError):
        probe(client, config)
    assert client.model_ready("spare")
    client.load("spare")
    with pytest.raises(ConchError):
        probe(client, config)
    with pytest.raises(ApplyRejected, match="not done"):
        client.unload("spare", deadline_s=1.0)
    client.load("spare")
    assert probe(client, config) < 5


def test_server_comes_back_on_the_same_ports_after_kill(server: TritonServer) -> None:
    """kill -9 of Triton: a new process, the same address and key, no stub of the old one left."""
    old = server.endpoint
    assert old.pid
    below = descendants(old.pid)
    os.kill(old.pid, signal.SIGKILL)
    assert wait_until(lambda: server.restart_count == 1)
    new = server.endpoint
    assert (old.grpc_url, old.admin_key) == (new.grpc_url, new.admin_key)
    assert new.pid != old.pid
    assert gone(below)
    with TritonClient(new.grpc_url, admin_key=new.admin_key) as client:
        x = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(2 * x, client.infer("double", {"x": x})["y"])
        client.load("spare")


def test_server_refuses_a_port_that_is_taken(server: TritonServer, repository: Path) -> None:
    """A port in use is said to be, before anything starts."""
    with pytest.raises(TritonUnavailable, match=f"port {server.endpoint.http_port}"):
        TritonServer(repository, http_port=server.endpoint.http_port).start()


@pytest.fixture
def served(repository: Path) -> Iterator[subprocess.Popen[str]]:
    """``conch serve --json`` in a process of its own, up."""
    command = [*CONCH, "serve", "--repository", str(repository), "--model", "double"]
    process = subprocess.Popen(
        [*command, "--name", NAME, "--json"], stdout=subprocess.PIPE, text=True
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    endpoints.remove(NAME)


def shared_memory(below: list[psutil.Process]) -> str:
    """The pattern of the shared memory of the Triton among these processes."""
    flag = "--backend-config=python,shm-region-prefix-name="
    lines = [part for process in below for part in process.cmdline() if part.startswith(flag)]
    return f"{lines[0].removeprefix(flag)}*"


def test_serve_leaves_nothing_after_sigterm(served: subprocess.Popen[str]) -> None:
    """The JSON line is enough to infer; SIGTERM drains, exits 0, and nothing is left."""
    assert served.stdout
    shown = json.loads(served.stdout.readline())
    assert [model["name"] for model in shown["models"]] == ["double"]
    found = endpoints.resolve(NAME)
    assert found.grpc_url == shown["grpc_url"]
    assert found.admin_key
    assert found.admin_key not in json.dumps(shown)
    path = endpoints.run_dir() / f"{NAME}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    with TritonClient(found.grpc_url) as client:
        x = np.ones((2, 4), np.float32)
        np.testing.assert_array_equal(2 * x, client.infer("double", {"x": x})["y"])
    second = subprocess.run(
        [*CONCH, "serve", "--repository", shown["repository"], "--name", NAME],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2
    assert "runs already" in second.stderr
    below = descendants(served.pid)
    assert len(below) >= 3  # guard, Triton, stub
    served.terminate()
    assert served.wait(30) == 0
    assert gone(below)
    assert not path.exists()


def test_nothing_outlives_a_killed_conch(served: subprocess.Popen[str]) -> None:
    """kill -9 of `conch serve`: Triton, stubs and shared memory go, and nobody finds it."""
    assert served.stdout
    served.stdout.readline()
    below = descendants(served.pid)
    regions = shared_memory(below)
    assert list(SHARED_MEMORY.glob(regions))
    served.kill()
    served.wait()
    assert wait_until(lambda: gone(below))
    assert wait_until(lambda: not list(SHARED_MEMORY.glob(regions)))
    with pytest.raises(ConchError):
        endpoints.resolve(NAME)


def test_fetch_says_what_to_do_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline the error is one line with a hint, and no half-made folder is left."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    pinned = PinnedWheel(
        package="nvidia-pytriton", version="0.7.0", sha256="0" * 64, record_sha256="0" * 64
    )
    with pytest.raises(TritonUnavailable, match="pip could not fetch it") as raised:
        wheel.unpacked(pinned, tmp_path / "cache" / "triton")
    assert "CONCH_TRITON" in raised.value.hint
    assert not (tmp_path / "cache" / "triton").exists()


@pytest.mark.skipif(prometheus.find() is None, reason=f"needs {prometheus.INSTALL_COMMAND}")
def test_prometheus_scrapes_the_server(server: TritonServer) -> None:
    """A local Prometheus has Triton's counters within a few seconds, and is gone afterwards."""
    with prometheus.running({"triton": server.endpoint.metrics_url}) as running:
        url = f"{running.url}/api/v1/query"
        query = {"query": "nv_inference_request_success"}

        def scraped() -> bool:
            answer = requests.get(url, params=query, timeout=5).json()
            return bool(answer["data"]["result"])

        assert wait_until(scraped, 15)
        pid = running.pid
    assert not psutil.pid_exists(pid)


def test_doctor_finds_the_parts_and_names_the_mending_command_without_them(
    server: TritonServer, tmp_path: Path
) -> None:
    """With Triton there: exit 0; with an empty cache: exit 1 and the command that downloads it."""
    command = [*CONCH, "doctor", "--json"]
    here = subprocess.run(command, capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(here.stdout)["checks"]}
    assert here.returncode == 0
    assert checks["triton"]["found"]
    assert server.binary.version in checks["triton"]["detail"]
    environment = os.environ | {"CONCH_CACHE": str(tmp_path)}
    empty = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    checks = {check["name"]: check for check in json.loads(empty.stdout)["checks"]}
    assert empty.returncode == 1
    assert checks["triton"]["mend"] == "conch doctor --fix"
    assert list(tmp_path.iterdir()) == []
