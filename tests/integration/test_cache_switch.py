"""The response cache of a real Triton, switched by what its hits save."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from control import session
from control.act.knobs import settings_of
from control.core.reasons import Reason
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from tests.integration import scripted
from tests.integration.ticks import ticks_until

TICK_S = 0.25
POLICY = ModelPolicy(
    slo=0.2,
    max_instances=1,
    rebatch=False,
    response_cache=True,
    reloads_per_hour=4,
    fast_window=0.5,
    stable_window=1.0,
    cooldown=0.5,
)
SHORT = {"settle_s": 0.25, "watch_s": 0.5, "watch_requests": 50}


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint): models that take 3 ms a batch, and a cache."""
    root = tmp_path_factory.mktemp("cache") / "repository"
    root.mkdir()
    for name in ("repeats", "differs"):
        scripted.publish(root, name, max_batch_size=8, batch_s=0.003)
    server = start_server(root, cache_bytes=2**22)
    return Repository(root), connect(server), server.endpoint


@contextmanager
def _asking(client: TritonClient, model: str, inputs: Iterator[float]) -> Iterator[None]:
    """Somebody who asks, waits for the answer and asks the next, while the block lasts."""
    stop = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            for value in inputs:
                if stop.wait(0.002):
                    return
                client.infer(model, {"x": np.full((1, 4), value, np.float32)})
        except Exception as error:
            errors.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield
    finally:
        stop.set()
        asker.join()
        assert errors == []


def _run(
    repository: Repository,
    endpoint: Endpoint,
    model: str,
    *,
    until: Callable[[list[Tick]], bool],
    at_most_s: float = 15.0,
) -> list[Tick]:
    """The ticks until something came true; fails when it did not in time."""
    policy = PolicyFile(tick=TICK_S, models={model: POLICY})
    with session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop:
        loop.policies = {model: replace(loop.policies[model], **SHORT)}
        return ticks_until(loop, until, tick_s=TICK_S, at_most_s=at_most_s)


def _switched(ticks: list[Tick]) -> list[bool]:
    """What the cache was switched to."""
    ended = [tick.ended.decision for tick in ticks if tick.ended]
    assert {decision.reason for decision in ended} <= {Reason.CACHE_SWITCH}
    return [decision.desired.response_cache for decision in ended if decision.desired]


def test_the_cache_stays_on_where_requests_repeat(served) -> None:
    """One input in turn with nineteen others: on, judged by its hits, and left on."""
    repository, client, endpoint = served
    with _asking(client, "repeats", itertools.cycle(range(20))):
        ticks = _run(
            repository,
            endpoint,
            "repeats",
            until=lambda ts: "cache_hit_fraction" in ts[-1].decision.terms,
        )
    assert _switched(ticks) == [True]
    terms = ticks[-1].decision.terms
    assert terms["cache_hit_fraction"] > 0.9
    assert 0 < terms["cache_lookup_s"] < 0.002
    assert settings_of(client.config("repeats")).response_cache
    assert settings_of(repository.read_config("repeats")).response_cache
    seen = ticks[-1].observation.counters
    assert seen is not None
    assert terms["stable_rps"] < 0.2 * seen.success / (
        ticks[-1].observation.at_s - ticks[0].observation.at_s
    )


def test_the_cache_goes_off_where_no_request_repeats(served) -> None:
    """Every input is new: on for a trial, then off, on disk, too."""
    repository, client, endpoint = served
    with _asking(client, "differs", map(float, itertools.count())):
        ticks = _run(
            repository, endpoint, "differs", until=lambda ts: _switched(ts) == [True, False]
        )
    terms = ticks[-1].decision.terms
    assert terms["cache_hit_fraction"] < 0.05
    assert terms["cache_absent"] == 0.0
    assert not settings_of(client.config("differs")).response_cache
    assert not settings_of(repository.read_config("differs")).response_cache


def test_a_server_without_a_cache_is_found_out(tmp_path: Path, start_server, connect) -> None:
    """It loads the setting without a word; nothing is looked up, and the setting goes again."""
    scripted.publish(tmp_path, "plain", max_batch_size=8, batch_s=0.0)
    server = start_server(tmp_path, name="without")
    client, repository = connect(server), Repository(tmp_path)
    with _asking(client, "plain", itertools.cycle(range(2))):
        ticks = _run(
            repository, server.endpoint, "plain", until=lambda ts: _switched(ts) == [True, False]
        )
    assert ticks[-1].decision.terms["cache_absent"] == 1.0
    assert not settings_of(client.config("plain")).response_cache
