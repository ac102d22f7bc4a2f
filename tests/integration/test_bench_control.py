"""The bench of rules on a real Triton: what a run reports is what the server did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from conch.errors import ConchError
from control.core.policy import Policy
from perf import traces
from perf.bench.control import gpu, real
from perf.bench.control.gpu import TorchModel
from perf.bench.control.real import Play
from perf.bench.control.run import ControlRun
from perf.bench.emulated import EmulatedModel
from serving.client import TritonClient
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer

pytestmark = pytest.mark.alone

MODEL = EmulatedModel(alpha_s=0.005, beta_s=0.02, load_s=0.5)  # an instance carries 133 req/s
POLICY = Policy(
    slo_s=0.25,
    max_instances=6,
    max_batch_size=8,
    cores=6,
    rebatch=False,
    fast_window_s=0.5,
    stable_window_s=1.5,
    load_s=0.5,
)
WARM_UP_S = 3.0
STEP = traces.steps(((40, WARM_UP_S + 2), (220, 6)), seed=3)


class Watch:
    """The counts that a server's own config shows, one after the other."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._stop = threading.Event()

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """Watch until the end of the block."""
        try:
            yield self
        finally:
            self._stop.set()

    def start(self, endpoint: Endpoint) -> None:
        """Begin, in a thread."""
        threading.Thread(target=self._look, args=(endpoint,), daemon=True).start()

    def _look(self, endpoint: Endpoint) -> None:
        with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
            while not self._stop.wait(0.05):
                with suppress(ConchError):
                    count = client.config(MODEL.name).instance_group[0].count
                    if self.counts[-1:] != [count]:
                        self.counts.append(count)


@pytest.fixture(scope="module")
def played() -> tuple[ControlRun, Watch, ControlRun]:
    """The same step under Conch, with the counts that its server showed, and with two instances."""
    served, watch = real.emulator(MODEL), Watch()

    def asked(rule: str, instances: int) -> Play:
        return Play(
            trace=STEP,
            warmup_s=WARM_UP_S,
            rule=rule,
            policy=POLICY,
            instances=instances,
            tick_s=0.25,
        )

    with watch.on(), ThreadPoolExecutor(2) as pool:
        conch = pool.submit(real.play, served, asked("conch", 1), on_up=watch.start)
        static = pool.submit(real.play, served, asked(real.STATIC, 2))
        return conch.result(), watch, static.result()


def test_every_request_after_the_warm_up_is_there_and_none_failed(
    played: tuple[ControlRun, Watch, ControlRun],
) -> None:
    """On both servers, with the same arrivals."""
    conch, _, static = played
    scored = STEP.arrival_s[STEP.arrival_s >= WARM_UP_S] - WARM_UP_S
    for run in (conch, static):
        np.testing.assert_allclose(run.intended_s, scored)
        assert run.valid, run.invalid_reason
        assert run.failed == 0
        assert run.duration_s == pytest.approx(8.0)
        assert not run.simulated
        # No batch is faster than its own time, less the jitter's cut of three deviations.
        assert run.latency_s.min() > (MODEL.alpha_s + MODEL.beta_s) * 0.9
        assert np.isfinite(run.latency_s).all()
        assert 0 < run.busy_fraction <= 1


def test_what_is_paid_is_what_the_servers_config_showed(
    played: tuple[ControlRun, Watch, ControlRun],
) -> None:
    """The counts after each change, in order; and meanwhile never less than either side of it."""
    conch, watch, _ = played
    assert conch.changes, "the step needs a second instance"
    assert watch.counts == [1, *(change.after.instances for change in conch.changes)]
    assert conch.paid[0] == (-WARM_UP_S, 1)
    assert conch.paid[-1][1] == watch.counts[-1]
    times = [at_s for at_s, _ in conch.paid]
    assert times == sorted(times)
    for change in conch.changes:
        assert change.ok
        assert change.begun_s < change.ended_s
        assert (change.begun_s, max(change.before.instances, change.after.instances)) <= max(
            (at_s, count) for at_s, count in conch.paid if at_s == change.begun_s
        )


def test_static_is_nobody(played: tuple[ControlRun, Watch, ControlRun]) -> None:
    """No process, no change, the same count from first to last."""
    conch, _, static = played
    assert (static.changes, static.paid) == ((), ((-WARM_UP_S, 2),))
    assert static.controller_cpu_s == 0
    assert conch.controller_cpu_s > 0


def test_nothing_is_left_of_a_run(played: tuple[ControlRun, Watch, ControlRun]) -> None:
    """Neither a server nor a controller nor a sender that this process began."""
    del played
    names = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "tritonserver" in name or "control run" in name]


def test_a_model_of_a_repository_is_copied(tmp_path: Path) -> None:
    """Its instances are chosen in the copy; the original stays as it is."""
    from perf.bench import emulated
    from serving.repository import Repository

    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    emulated.publish(MODEL, source)
    before = (source / MODEL.name / "config.pbtxt").read_bytes()
    served = real.from_repository(Repository(source), MODEL.name, {})
    served.publish(copy, 3)
    assert Repository(copy).read_config(MODEL.name).instance_group[0].count == 3
    assert (source / MODEL.name / "config.pbtxt").read_bytes() == before


def test_the_torch_model_answers_each_request_with_its_own_row(
    tmp_path: Path, start_server: StartServer, connect: Callable[[TritonServer], TritonClient]
) -> None:
    """The GPU target's model, on the CPU: what is batched together comes back apart."""
    model = TorchModel(width=16, layers=2, rounds=1, on_gpu=False, instances=1)
    gpu.publish(model, tmp_path)
    client = connect(start_server(tmp_path))
    rows = np.random.default_rng(1).normal(size=(12, 16)).astype(np.float32)
    alone = [client.infer(model.name, {"x": row[None]})["y"] for row in rows]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda row: client.infer(model.name, {"x": row[None]})["y"], rows))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({tuple(np.round(y[0], 4)) for y in alone}) == len(rows)
