"""The ladder on a real Triton: memory for one model at its best, and the load moves to the other.

The models are emulated accelerators that hold real memory: a file of each version, twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from control import life, session
from control.core.reasons import Reason
from control.policy_file import Budget, ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from control.watch.observe import settings_of
from perf import traces
from perf.bench.emulated import EmulatedModel, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer, wait_until

pytestmark = pytest.mark.alone

MIB = 2**20
CHEAP, BEST = 1, 2
FILES = {CHEAP: 30 * MIB, BEST: 150 * MIB}
MEMORY_MIB = 500
"""One best and one cheap take 460 MiB with what a process needs by itself, two best 600."""
POLICY = ModelPolicy(
    slo=0.3,
    max_instances=1,
    rebatch=False,
    fast_window=0.5,
    stable_window=1.5,
    cooldown=0.5,
    load_time=1.0,
    versions=[BEST, CHEAP],
)
TICK_S = 0.25
HOT_RPS, COLD_RPS = 60.0, 15.0
MOST_S = 90.0


def _published(root: Path, name: str) -> None:
    """Version 1 is served, twice as fast and a fifth of the size of version 2."""
    more = {BEST: (0.004, 0.016)}
    model = EmulatedModel(
        name=name, alpha_s=0.002, beta_s=0.008, load_s=1.0, more_versions=more, weights=FILES
    )
    publish(model, root)


def _offered(
    server: TritonServer, name: str, rps: float, moved: threading.Event, stop: threading.Event
) -> list[ReplayResult]:
    """One load until ``moved``, then that of the other model."""
    items = {"x": np.ones((1, 1), np.float32)}
    target = ReplayTarget(grpc_url=server.endpoint.grpc_url, model=name, inputs=items)
    rates, ends = (rps, HOT_RPS + COLD_RPS - rps), (moved, stop)
    return [
        replay(traces.poisson(rate, MOST_S, seed=7), target, slo_s=POLICY.slo, stop=end)
        for rate, end in zip(rates, ends, strict=True)
    ]


def _answered(client: TritonClient, name: str) -> bool:
    """Whether the load has begun."""
    return client.statistics(name).success_count >= COLD_RPS


def test_the_model_that_is_asked_most_is_at_its_best_and_nobody_fails(
    tmp_path: Path,
    start_server: StartServer,
    connect: Callable[[TritonServer], TritonClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """a climbs; the load moves; a gives its rung up, and b climbs when it has."""
    for name in "ab":
        _published(tmp_path / "repository", name)
    repository = Repository(tmp_path / "repository")
    server = start_server(repository.root)
    client = connect(server)
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    endpoints.save(server.endpoint)
    moved, stop, ticks = threading.Event(), threading.Event(), list[Tick]()
    both: list[Tick] = []

    def versions() -> list[int | None]:
        return [settings_of(client.config(name)).version for name in "ab"]

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if tick.ended is None:
            return
        now = versions()
        if now == [BEST, BEST]:
            both.append(tick)
        if now == [BEST, CHEAP] and not moved.is_set():
            threading.Timer(6.0, moved.set).start()
        if now == [CHEAP, BEST] and moved.is_set():
            threading.Timer(3.0, stop.set).start()

    file = PolicyFile(
        tick=TICK_S, budget=Budget(memory_mib=MEMORY_MIB), models={"a": POLICY, "b": POLICY}
    )
    assert versions() == [CHEAP, CHEAP]
    with (
        ThreadPoolExecutor(2) as pool,
        session.session(server.endpoint, repository, file, mode=Mode.ACTIVE) as loop,
    ):
        sent = [
            pool.submit(_offered, server, "a", HOT_RPS, moved, stop),
            pool.submit(_offered, server, "b", COLD_RPS, moved, stop),
        ]
        try:
            flows = [partial(_answered, client, name) for name in "ab"]
            assert all(wait_until(flow) for flow in flows)  # clients take seconds to start
            loop.policies = {n: replace(p, settle_s=0.5) for n, p in loop.policies.items()}
            life.run(loop, tick_s=TICK_S, stop=stop, duration_s=MOST_S, on_tick=saw)
        finally:
            moved.set()
            stop.set()
        results = [result for future in sent for result in future.result()]
    told = [(t.model, t.decision.reason.name, t.decision.desired) for t in ticks if t.begun]
    assert versions() == [CHEAP, BEST], told
    assert not both, told
    steps = [
        (t.model, t.ended.decision.reason, t.ended.error)
        for t in ticks
        if t.ended and t.ended.decision.reason is not Reason.QUALITY_STANDBY
    ]
    assert all(error == "" for _, _, error in steps)
    climbed, gave = ("b", Reason.QUALITY_UP, ""), ("a", Reason.OVER_BUDGET, "")
    assert [step[0] for step in steps if step[1] is Reason.QUALITY_UP] == ["a", "b"]
    assert gave in steps[: steps.index(climbed)]
    assert sum(result.number_of(Outcome.FAILED) for result in results) == 0
    assert sum(result.number_of(Outcome.OK) for result in results) > 500
    sizes = ticks[-1].observation.version_bytes
    assert sizes[BEST] > sizes[CHEAP] > 2 * FILES[CHEAP] - 1
