"""Proxies that the environment names are not asked for a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from conch.loopback import grpc_options
from perf import perf_analyzer, traces
from perf.bench.emulated import EmulatedModel, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome
from serving.runtime.endpoint import ENV_ADMIN_KEY, Endpoint
from serving.runtime.ports import free_ports
from tests.integration.conftest import StartServer

NAMES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXCEPTIONS = ("no_proxy", "no_grpc_proxy")
MODEL = EmulatedModel(alpha_s=0.001, beta_s=0.002, load_s=0.0, instances=1)
_MAIN = "from cli.main import main; main()"


@pytest.fixture(scope="module")
def endpoint(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Endpoint:
    """A server that was started before the proxies are there: what starts one is tested apart."""
    root = tmp_path_factory.mktemp("repository")
    publish(MODEL, root)
    return start_server(root).endpoint


@pytest.fixture
def dead_proxy(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """An office machine: every variable names a proxy, no variable names an exception."""
    proxy = f"http://127.0.0.1:{free_ports((0,))[0]}"
    for name in NAMES:
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.upper(), proxy)
    for name in EXCEPTIONS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return proxy


def ready(channel: grpc.Channel, wait_s: float) -> bool:
    """Whether the channel gets a connection."""
    try:
        grpc.channel_ready_future(channel).result(timeout=wait_s)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def test_grpc_asks_a_proxy_for_loopback_unless_it_is_told_not_to(
    endpoint: Endpoint, dead_proxy: str
) -> None:
    """The fact that all of this is for."""
    assert not ready(grpc.insecure_channel(endpoint.grpc_url), 2.0)
    options = grpc_options(endpoint.grpc_url)
    assert ready(grpc.insecure_channel(endpoint.grpc_url, options=options), 20.0)


def test_the_replayer_goes_past_a_dead_proxy(endpoint: Endpoint, dead_proxy: str) -> None:
    """Its processes open channels of their own."""
    target = ReplayTarget(
        grpc_url=endpoint.grpc_url, model=MODEL.name, inputs={"x": np.ones((1, 1), np.float32)}
    )
    result = replay(traces.poisson(20, 1, seed=1), target, slo_s=1.0)
    assert result.number_of(Outcome.OK) == result.intended_s.size


def test_perf_analyzer_goes_past_a_dead_proxy(endpoint: Endpoint, dead_proxy: str) -> None:
    """NVIDIA's tool takes proxies from its environment."""
    result = perf_analyzer.run(MODEL.name, endpoint, concurrencies=(1,), duration_s=1.0)
    assert result.levels[0].throughput_rps > 0


@pytest.mark.parametrize(
    "command",
    [
        ("perf", "run", MODEL.name, "--concurrency", "1", "--duration", "1s", "--json"),
        ("perf", "replay", MODEL.name, "--step", "20:1", "--slo", "1s", "--json"),
        ("control", "once", "--dry-run", "--json"),
    ],
)
def test_commands_go_past_a_dead_proxy(
    endpoint: Endpoint, dead_proxy: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    """gRPC, HTTP and child processes of the command line, each in an environment of an office."""
    where = ["--url", endpoint.grpc_url]
    if command[0] == "control":
        where += ["--metrics-url", endpoint.metrics_url, "--repository", str(endpoint.repository)]
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, *command, *where],
        env={**os.environ, ENV_ADMIN_KEY: endpoint.admin_key or ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
