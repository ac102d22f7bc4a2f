"""Several models under one budget on a real Triton: who gets what, and never more than there is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConchError
from control import life, session
from control.core.reasons import Reason
from control.journal.writer import Journal
from control.policy_file import Budget, ModelPolicy, PolicyFile
from control.tick import Mode
from perf import traces
from perf.bench.emulated import EmulatedModel, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer

pytestmark = pytest.mark.alone

INSTANCES = 6
WEIGHTS = {"gold": 3.0, "silver": 2.0, "bronze": 1.0}
RATES = {"gold": 80.0, "silver": 55.0, "bronze": 45.0}
"""Full batches take 0.24 s: an instance carries 33/s, so 3, 2 and 2 instances are needed."""
GOAL = {"gold": 3, "silver": 2, "bronze": 1}
"""What 6 instances are worth most as."""
LIGHT_RPS, WARM_UP_S, LEAST_S, MOST_S = 10.0, 3.0, 15.0, 60.0
"""The overload goes on until the goal was in force: a crowded machine takes its time."""
TICK_S = 0.5


class Watch:
    """What the server's own configs show: instances by model, whenever they differ."""

    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []
        self.there = threading.Event()

    @contextmanager
    def on(self, endpoint: Endpoint) -> Iterator[Watch]:
        """Look until the end of the block."""
        stop = threading.Event()

        def look() -> None:
            with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
                while not stop.wait(0.05):
                    with suppress(ConchError):
                        seen = {n: client.config(n).instance_group[0].count for n in WEIGHTS}
                        if self.counts[-1:] != [seen]:
                            self.counts.append(seen)
                        if seen == GOAL:
                            self.there.set()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()


def _model_policy(weight: float) -> ModelPolicy:
    """Windows short enough for a test."""
    return ModelPolicy(
        slo=1.0,
        max_instances=INSTANCES,
        max_batch_size=8,
        cores=INSTANCES,
        rebatch=False,
        fast_window=1.0,
        stable_window=2.0,
        cooldown=1.0,
        load_time=0.5,
        weight=weight,
    )


def _offered(endpoint: Endpoint, model: str, enough: threading.Event) -> ReplayResult:
    """The load of one model until it is enough; what waits then is not waited for."""
    levels = ((LIGHT_RPS, WARM_UP_S), (RATES[model], MOST_S))
    target = ReplayTarget(
        grpc_url=endpoint.grpc_url, model=model, inputs={"x": np.ones((1, 1), np.float32)}
    )
    trace = traces.steps(levels, seed=len(model))
    return replay(trace, target, slo_s=1.0, processes=1, stop=enough)


def _held(journal: Journal) -> list[int]:
    """Instances of all models after each beginning and end; of a change in flight the greater."""
    wanted = {
        entry.decision.tick_id: entry.decision.desired
        for name in WEIGHTS
        for entry in journal.entries(name)
    }
    held, sums = dict.fromkeys(WEIGHTS, 2), []
    actions = journal.actions()
    moments = [(a.begun_at_s, True, a) for a in actions]
    moments += [(a.ended_at_s or a.begun_at_s, False, a) for a in actions]
    for _, begins, action in sorted(moments, key=lambda moment: moment[:2]):
        desired = wanted[action.tick_id]
        assert desired is not None
        least = held[action.model] if begins else 0
        held[action.model] = max(least, desired.instances)
        sums.append(sum(held.values()))
    return sums


def test_three_models_share_a_budget_by_their_weights(
    tmp_path: Path, start_server: StartServer, connect: Callable[[TritonServer], TritonClient]
) -> None:
    """More is needed than there is: whole needs by weight, and never less than one each."""
    for name in WEIGHTS:
        publish(
            EmulatedModel(name=name, alpha_s=0.02, beta_s=0.08, load_s=0.3, instances=2), tmp_path
        )
    server = start_server(tmp_path)
    connect(server)
    repository = Repository(tmp_path)
    policy = PolicyFile(
        tick=TICK_S,
        budget=Budget(instances=INSTANCES),
        models={name: _model_policy(weight) for name, weight in WEIGHTS.items()},
    )
    over, enough = threading.Event(), threading.Event()
    with (
        session.session(server.endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
        Watch().on(server.endpoint) as watch,
        ThreadPoolExecutor(len(WEIGHTS)) as pool,
    ):
        offered = {name: pool.submit(_offered, server.endpoint, name, enough) for name in WEIGHTS}

        def tell() -> None:
            wait(offered.values(), timeout=WARM_UP_S + LEAST_S)
            watch.there.wait(MOST_S)
            enough.set()
            wait(offered.values())
            over.set()

        threading.Thread(target=tell, daemon=True).start()
        life.run(loop, tick_s=TICK_S, stop=over, duration_s=2 * MOST_S)
        results = {name: future.result() for name, future in offered.items()}
    for name, result in results.items():
        assert result.number_of(Outcome.FAILED) == 0, name
        sent_s = result.intended_s[result.outcome != Outcome.UNSENT]
        early = result.outcome[result.intended_s < sent_s[-1] / 3]  # the end cuts short who waits
        assert early.size > WARM_UP_S * LIGHT_RPS / 2, name
        assert (early == Outcome.OK).all(), name
    with Journal(session.journal_path(repository), read_only=True) as journal:
        held = _held(journal)
        reasons = {
            name: [e.decision.reason for e in journal.entries(name) if e.decision.changes]
            for name in WEIGHTS
        }
    assert max(sum(seen.values()) for seen in watch.counts) <= INSTANCES
    assert max(held) <= INSTANCES
    assert min(min(seen.values()) for seen in watch.counts) >= 1
    assert GOAL in watch.counts
    assert Reason.OVER_BUDGET in reasons["bronze"]
