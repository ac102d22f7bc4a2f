"""A batching that halves what a full queue is answered at, on a real Triton."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from control import session
from control.act.knobs import settings_of
from control.core.decision.decide import decide
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Observation
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from tests.integration import scripted
from tests.integration.load import ONES
from tests.integration.ticks import ticks_until

pytestmark = pytest.mark.alone

TICK_S = 0.25
LARGE = 32
CALM_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Raises:
    """Raises the batch limit once the model has answered for a while; takes back like Conch."""

    after_s: float
    name: str = "raises"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """See above."""
        decision, state = decide(state, seen, policy)
        was = decision.applied
        if was is None or decision.reason is Reason.ROLLBACK:
            return decision, state
        now = seen.at_s >= self.after_s and state.safety.verdict is None
        wanted = replace(was, max_batch_size=LARGE) if now else was
        return replace(decision, reason=Reason.SCALE_BY_RULE, desired=wanted), state


@contextmanager
def closed_loop(url: str, model: str, clients: int) -> Iterator[list[str]]:
    """So many clients that send the next request when the last is answered; gives the failures."""
    stop, failed = threading.Event(), list[str]()

    def ask() -> None:
        with TritonClient(url) as client:
            while not stop.is_set():
                try:
                    client.infer(model, {"x": ONES})
                except Exception as error:  # told by the test
                    failed.append(str(error))
                    return

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        stop.set()
        for thread in threads:
            thread.join(10.0)


@pytest.mark.parametrize("clients", [40, 60])
def test_it_is_taken_back(tmp_path, start_server, connect, monkeypatch, clients: int) -> None:
    """Eight take 80 ms, as one does; more take the square of that, and 40 keep the queue full.

    Up to 16 clients may split into two batches of 8, as before, and lose nothing.
    """
    root = tmp_path / "repository"
    scripted.publish(root, "square", max_batch_size=8, batch_s=0.08, square_above=8)
    server = start_server(root)
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    endpoints.save(server.endpoint)
    client, repository = connect(server), Repository(root)
    good = settings_of(client.config("square"))
    policy = PolicyFile(
        tick=TICK_S, models={"square": ModelPolicy(slo=0.05, max_instances=1, stable_window=1.5)}
    )
    with (
        session.session(server.endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
        closed_loop(server.endpoint.grpc_url, "square", clients) as failed,
    ):
        short = {"settle_s": 0.5, "watch_s": 15.0, "watch_requests": 200}
        loop.policies = {"square": replace(loop.policies["square"], **short)}
        loop.rules = {"square": Raises(after_s=time.time() + CALM_S)}
        ticks = ticks_until(
            loop,
            lambda ts: bool(ts[-1].ended) and ts[-1].ended.decision.reason is Reason.ROLLBACK,
            tick_s=TICK_S,
            at_most_s=60.0,
        )
    ends = [tick.ended for tick in ticks if tick.ended]
    assert [end.decision.desired for end in ends] == [replace(good, max_batch_size=LARGE), good]
    assert settings_of(client.config("square")) == good
    assert failed == []
