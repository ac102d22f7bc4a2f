"""The replayer, perf_analyzer and the capacity probe against a real Triton."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from cli.main import root
from conch.errors import ConchError, LoadError, ThresholdMissed, TritonUnavailable
from perf import perf_analyzer, traces
from perf.capacity import find_capacity
from perf.replay import Progress, ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving.client import TritonClient
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer

pytestmark = pytest.mark.alone

CONFIG = """
name: "{name}" backend: "python" max_batch_size: {batch}
input {{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "each_s" value {{ string_value: "{each_s}" }} }}
parameters {{ key: "stall_at" value {{ string_value: "{stall_at}" }} }}
"""
MODEL = '''
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Echoes; sleeps each_s in every execution, and 0.5 s more in execution number stall_at."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.each_s = float(parameters["each_s"]["string_value"])
        self.stall_at = int(parameters["stall_at"]["string_value"])
        self.count = 0

    def execute(self, requests):
        self.count += 1
        time.sleep(self.each_s + (0.5 if self.count == self.stall_at else 0.0))
        tensors = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", t)]) for t in tensors]
'''
MODELS = {
    "echo": {"batch": 4, "each_s": 0.0, "stall_at": -1},
    "stall": {"batch": 0, "each_s": 0.0, "stall_at": 100},
    "late": {"batch": 0, "each_s": 0.0, "stall_at": 100},
    "slow": {"batch": 0, "each_s": 0.005, "stall_at": -1},
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models whose service times are known."""
    folder = tmp_path_factory.mktemp("repository")
    for name, values in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(name=name, **values))
        (folder / name / "1" / "model.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def endpoint(start_server: StartServer, repository: Path) -> Endpoint:
    """A server with all of them."""
    return start_server(repository).endpoint


def target(endpoint: Endpoint, model: str) -> ReplayTarget:
    """One request of two numbers."""
    shape = (1, 2) if MODELS[model]["batch"] else (2,)
    return ReplayTarget(
        grpc_url=endpoint.grpc_url, model=model, inputs={"x": np.ones(shape, dtype=np.float32)}
    )


def test_replay_sends_everything_at_its_time(endpoint: Endpoint) -> None:
    """Every request of a trace is sent, answered and timed, and progress is told on the way."""
    seen: list[Progress] = []
    trace = traces.poisson(100, 3, seed=1)
    result = replay(
        trace, target(endpoint, "echo"), slo_s=0.1, processes=2, on_progress=seen.append
    )
    assert result.invalid_reason == ""
    assert result.number_of(Outcome.OK) == trace.count
    assert np.array_equal(result.intended_s, trace.arrival_s)
    assert np.all(result.sent_s >= result.intended_s)
    assert np.all(result.done_s > result.sent_s)
    assert result.client_cpu_s > 0
    assert len(seen) >= 3
    assert seen[-1].ok <= trace.count
    assert seen[-1].p99_s < 0.1


def test_replay_sees_the_whole_of_a_stall(endpoint: Endpoint) -> None:
    """All requests that were due in a stall of 0.5 s are slow, not only the one that met it.

    A closed-loop client would count one slow request. At 100 a second some 50 are due meanwhile.
    """
    trace = traces.constant(100, 3)
    result = replay(trace, target(endpoint, "stall"), slo_s=0.05, processes=1)
    assert result.valid, result.invalid_reason
    slow = result.latency_s[result.latency_s > 0.05]
    assert 40 <= slow.size <= 60
    assert slow.max() == pytest.approx(0.5, abs=0.1)
    ordered = result.latency_s[100:140]  # each one waits 10 ms less than the one before
    assert np.mean(np.diff(ordered) < 0) > 0.9


def test_replay_counts_the_late_apart_from_the_failed(endpoint: Endpoint) -> None:
    """A request given up at its deadline is late; the server made no error."""
    result = replay(traces.constant(100, 2.5), target(endpoint, "late"), slo_s=0.05, deadline_s=0.2)
    assert result.number_of(Outcome.LATE) >= 20
    assert result.number_of(Outcome.FAILED) == 0
    assert result.summary()["slo_attainment"] < 0.9


def test_replay_is_invalid_when_the_replayer_cannot_keep_up(endpoint: Endpoint) -> None:
    """More than a process can send makes lag, and the result says that it describes the client."""
    result = replay(
        traces.constant(8000, 1), target(endpoint, "echo"), slo_s=0.05, processes=1, deadline_s=5
    )
    assert not result.valid
    assert "fell behind" in result.invalid_reason


def test_replay_reports_errors_of_the_server(endpoint: Endpoint) -> None:
    """Requests that the server refuses are failed, with its own words."""
    bad = ReplayTarget(
        grpc_url=endpoint.grpc_url, model="nope", inputs={"x": np.ones(2, dtype=np.float32)}
    )
    result = replay(traces.constant(20, 0.5), bad, slo_s=0.05)
    assert result.number_of(Outcome.FAILED) == result.count == 10
    assert any("nope" in text for text in result.errors)


def test_replay_survives_a_killed_server(start_server: StartServer, repository: Path) -> None:
    """kill -9 of Triton in mid-run gives failed requests with their reason, and no crash."""
    server: TritonServer = start_server(repository, name="victim", models=["echo"], restart=False)
    pid = server.endpoint.pid
    assert pid is not None
    killer = threading.Timer(2.0, os.kill, (pid, signal.SIGKILL))
    killer.start()
    result = replay(
        traces.constant(50, 3), target(server.endpoint, "echo"), slo_s=0.05, deadline_s=5
    )
    killer.join()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert result.number_of(Outcome.OK) > 30
    assert result.number_of(Outcome.FAILED) > 20
    assert result.number_of(Outcome.UNSENT) == 0
    assert any("UNAVAILABLE" in text for text in result.errors)


def test_replay_says_so_when_no_server_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens is an error before anything is sent."""
    monkeypatch.setattr("perf.replay.CONNECT_S", 1.0)
    nowhere = ReplayTarget(
        grpc_url="127.0.0.1:9", model="m", inputs={"x": np.ones(1, dtype=np.float32)}
    )
    with pytest.raises(TritonUnavailable, match="no gRPC connection"):
        replay(traces.constant(10, 1), nowhere, slo_s=0.05)


def test_replay_stops_early_when_told(endpoint: Endpoint) -> None:
    """The stop event ends a run, keeps what was measured, and the run is not valid."""
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    result = replay(traces.constant(50, 30), target(endpoint, "echo"), slo_s=0.05, stop=stop)
    assert result.number_of(Outcome.OK) > 10
    assert result.number_of(Outcome.UNSENT) > 1000
    assert "never sent" in result.invalid_reason


def test_capacity_finds_what_a_known_model_carries(endpoint: Endpoint) -> None:
    """One instance that takes 5 ms carries less than 200 a second, and more than a quarter."""
    found = find_capacity(
        target(endpoint, "slow"), 0.05, budget_s=14.0, probe_s=2.0, start_rps=100.0
    )
    assert found.bounded
    assert 50 <= found.rate_rps < 200
    assert found.p99_s <= 0.05
    assert not all(probe.carried for probe in found.probes)


def test_perf_analyzer_measures_the_model(endpoint: Endpoint) -> None:
    """NVIDIA's tool runs against the restricted server, and its report becomes typed values.

    The rate in its report is the count over the windows' wall time: a pause of one second at the
    end of three makes 30 of 40. The server counts what was sent, which no pause changes.
    """
    result = perf_analyzer.run(
        "slow", endpoint, concurrencies=(1, 2), shapes={"sequence": (2,)}, duration_s=1.5
    )
    one, two = result.levels
    assert one.load == 1
    assert 60 < one.throughput_rps < 200
    assert 5 <= one.infer_ms < 8
    assert one.p50_ms <= one.p99_ms
    assert two.queue_ms > 3
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        before = client.statistics("echo").inference_count
        rate = perf_analyzer.run(
            "echo",
            endpoint,
            rates=(40.0,),
            batch=2,
            shapes={"x": (2,)},
            duration_s=3,
            distribution="constant",
        )
        inferences = client.statistics("echo").inference_count - before
    assert inferences >= 2 * 40 * 3
    (level,) = rate.levels
    assert level.load == 40
    assert 0 < level.throughput_rps < 44
    assert level.inferences_rps == pytest.approx(2 * level.throughput_rps, rel=0.01)


def test_perf_analyzer_says_what_is_wrong(endpoint: Endpoint) -> None:
    """No server, no such model: an error with a hint, not a table of zeros."""
    away = Endpoint(name="x", host="127.0.0.1", http_port=8, grpc_port=9, metrics_port=10)
    with pytest.raises(TritonUnavailable):
        perf_analyzer.run("echo", away, rates=(10.0,))
    with pytest.raises(ConchError, match="nope"):
        perf_analyzer.run("nope", endpoint, rates=(10.0,))


def cli(endpoint: Endpoint, *arguments: str) -> tuple[str, BaseException | None]:
    """What a command writes to stdout, and the error it ends with."""
    done = CliRunner().invoke(root, ["perf", *arguments, "--url", endpoint.grpc_url])
    return done.stdout, done.exception


def test_cli_replay_prints_json_and_saves_the_rows(endpoint: Endpoint, tmp_path: Path) -> None:
    """The command gives one JSON object, a folder that loads, and exit 5 at a missed threshold."""
    options = ("--slo", "50ms", "--shape", "sequence=2", "--out", str(tmp_path / "run"), "--json")
    text, error = cli(endpoint, "replay", "echo", "--step", "40:1", "--step", "80:1", *options)
    assert error is None
    summary = json.loads(text)
    assert summary["failed"] == 0
    assert ReplayResult.load(tmp_path / "run").count == summary["requests"]
    text, error = cli(
        endpoint, "replay", "echo", "--step", "40:1", *options, "--fail-on", "p99_ms>0.001"
    )
    assert json.loads(text)["valid"] is True
    assert isinstance(error, ThresholdMissed)


def test_cli_replay_refuses_to_call_an_invalid_run_valid(endpoint: Endpoint) -> None:
    """A run that fell behind is printed and ends as an error."""
    options = ("--slo", "50ms", "--shape", "sequence=2", "--processes", "1", "--json")
    text, error = cli(endpoint, "replay", "echo", "--step", "8000:0.7", *options)
    assert json.loads(text)["valid"] is False
    assert isinstance(error, LoadError)
