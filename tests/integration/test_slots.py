"""Slots on a real Triton: what runs at once, and what control leaves of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import root as cli
from conch.errors import ConfigError, RepositoryError
from control import life, session
from control.act.baseline import Baseline
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from perf import traces
from perf.replay_result import Outcome
from serving import model_config, slots
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.endpoint import Endpoint
from tests.integration import scripted
from tests.integration.load import ONES, replaying

pytestmark = pytest.mark.alone

SLOTS, INSTANCES, BATCH_S, REQUESTS = 2, 3, 0.05, 60
BAD = 'rate_limiter { resources { name: "conch_cpu" count: 1 global: true } }'
Served = tuple[Repository, TritonClient, Endpoint, Path]


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect) -> Iterator[Served]:
    """Two models of three instances for two slots, one without a slot, one that cannot load."""
    folder = tmp_path_factory.mktemp("slots")
    root, spans = folder / "repository", folder / "spans"
    root.mkdir()
    for name in ("a", "b", "beside"):
        scripted.publish(root, name, max_batch_size=4, batch_s=BATCH_S, spans=f"{spans}.{name}")
        scripted.set_count(root, name, INSTANCES)
    scripted.publish(root, "bad")
    text = (root / "bad" / "config.pbtxt").read_text()
    (root / "bad" / "config.pbtxt").write_text(text.replace("KIND_CPU", f"KIND_CPU {BAD}"))
    repository = Repository(root)
    for name in ("a", "b"):
        config = slots.with_slots(repository.read_config(name))
        (root / name / "config.pbtxt").write_text(model_config.to_text(config))
    server = start_server(root, slots=SLOTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        ready = {model.name: model.ready for model in server.models}
        assert ready == {"a": True, "b": True, "beside": True, "bad": False}
        [left] = [model for model in server.models if model.left_out]
        assert "(global), must be for each" in left.reason
        yield repository, connect(server), server.endpoint, spans


def _at_once(served: Served, *names: str) -> int:
    """The most executions that overlapped while these were asked from many sides."""
    client, spans = served[1], served[3]
    files = [spans.with_name(f"{spans.name}.{name}") for name in names]
    for file in files:
        file.unlink(missing_ok=True)
    with ThreadPoolExecutor(4 * INSTANCES * len(names)) as pool:
        asked = [names[number % len(names)] for number in range(REQUESTS * len(names))]
        list(pool.map(lambda name: client.infer(name, {"x": ONES}), asked))
    moments: list[tuple[float, int]] = []
    for file in files:
        for begun_s, ended_s in np.loadtxt(file, ndmin=2):
            moments += [(begun_s, 1), (ended_s, -1)]
    assert len(moments) >= 2 * REQUESTS * len(names) / 4
    return int(np.cumsum([step for _, step in sorted(moments)]).max())


def _asked(client: TritonClient, model: str) -> int:
    """One request more; gives how many there were."""
    client.infer(model, {"x": ONES})
    return client.statistics(model).inference_count


def _conch(*arguments: str, fails: type[Exception] | None = None) -> str:
    """What a command says."""
    result = CliRunner().invoke(cli, list(arguments), standalone_mode=False)
    if fails is None:
        assert result.exception is None, result.exception
        return result.output
    assert isinstance(result.exception, fails), result.exception
    return str(result.exception)


def test_models_with_more_instances_than_slots_take_turns(served: Served) -> None:
    """Never more than there are slots; one that asks for none is not held back."""
    assert _at_once(served, "a", "b") == SLOTS
    assert _at_once(served, "beside") == INSTANCES


def test_a_count_changes_in_place_and_the_slots_hold(served: Served) -> None:
    """The limiter is kept; the statistics go on."""
    repository, client, _, _ = served
    before = 0
    for count in (1, 4, INSTANCES):
        config = model_config.with_instances(repository.read_config("a"), count)
        repository.write_config("a", config, reason="test")
        client.load("a")
        assert slots.asks(client.config("a"))
        assert not Baseline(repository).of("a", client.config("a")).edited
        # The first one loads anew, as Python wrote its bytecode beside the model.
        assert client.statistics("a").inference_count >= before
        before = _asked(client, "a")
    assert _at_once(served, "a", "b") == SLOTS


def test_the_command_lets_a_served_model_take_part(served: Served) -> None:
    """From the moment that it ends; and back."""
    repository = served[0]
    where = ("--repository", str(repository.root))
    _conch("repo", "slots", "beside", *where)
    try:
        assert slots.asks(served[1].config("beside"))
        assert _at_once(served, "beside", "a") == SLOTS
    finally:
        _conch("repo", "slots", "beside", "--off", *where)
    assert _at_once(served, "beside") == INSTANCES


def test_a_model_that_asks_for_another_resource_does_not_reach_the_server(served: Served) -> None:
    """Triton would keep others from loading; a load by hand is refused with the reason."""
    said = _conch("repo", "load", "bad", "--repository", str(served[0].root), fails=ConfigError)
    assert "for all devices together" in said


def test_control_leaves_a_slot_to_others(served: Served) -> None:
    """It gives back what is beyond, writes the delay that fills batches, and keeps the limiter."""
    repository, client, endpoint, _ = served
    model = ModelPolicy(
        slo=0.4,
        max_instances=4,
        max_batch_size=4,
        cores=4,
        fast_window=0.5,
        stable_window=2.0,
        cooldown=1.0,
        calibrate=True,
    )
    policy, ticks, done = PolicyFile(tick=0.25, models={"a": model}), list[Tick](), Event()

    def follow(tick: Tick) -> None:
        ticks.append(tick)
        applied = tick.observation.applied
        if applied and applied.instances < SLOTS and applied.max_queue_delay_s > 0.0:
            done.set()

    with (
        replaying(endpoint, "a", traces.poisson(8.0, 60.0, seed=1)) as results,
        session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
    ):
        where = ("--repository", str(repository.root))
        assert "loop" in _conch("repo", "slots", "a", "--off", *where, fails=RepositoryError)
        life.run(loop, tick_s=0.25, stop=done, duration_s=50.0, on_tick=follow)
    assert {tick.observation.slots for tick in ticks} == {SLOTS}
    assert ticks[-1].decision.terms["slot_instances"] == SLOTS - 1
    shown = client.config("a")
    assert model_config.instance_count(shown) == SLOTS - 1, [t.decision.reason for t in ticks]
    assert slots.asks(shown)
    delay_s = model_config.batching(shown).max_queue_delay_us * 1e-6
    assert delay_s == pytest.approx(0.4 / 8)
    sent = results[0].outcome != Outcome.UNSENT
    assert float(np.mean(results[0].latency_s[sent] <= 0.4)) > 0.9


def test_a_foreign_servers_slots_are_not_known(served: Served) -> None:
    """What cannot be asked is not used."""
    foreign = endpoints.resolve("127.0.0.1:9")
    assert (served[2].slots, foreign.slots) == (SLOTS, None)
