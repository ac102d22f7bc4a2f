"""What a real Triton does when a config changes: reload or not, counters, ensembles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests

from conch.errors import ConchError
from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.core.memory.bounds import least_batch_limit
from control.watch.observe import Observer
from control.watch.sources import ScrapedCounters
from serving import metrics, model_config
from serving.model_config import ModelConfig, ReloadKind
from tests.integration import changeable, scripted
from tests.integration.changeable import serve_some
from tests.integration.conftest import wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint) of one server: a model, and two ensembles around another."""
    root = tmp_path_factory.mktemp("repository")
    scripted.publish(root, "plain")
    scripted.publish(root, "member")
    scripted.publish(root, "bulky")
    scripted.publish_ensemble(root, "pipeline", "member")
    scripted.publish_ensemble(root, "outer", "pipeline", max_batch_size=4)
    return changeable.serve(root, start_server, connect, settled=("plain",))


def _delay(config: ModelConfig) -> ModelConfig:
    config.dynamic_batching.max_queue_delay_microseconds += 100
    return config


def _version_policy(config: ModelConfig) -> ModelConfig:
    config.version_policy.latest.num_versions += 1
    return config


CHANGES: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "instances up": lambda c: model_config.with_instances(c, 2),
    "instances down": lambda c: model_config.with_instances(c, 1),
    "version policy": _version_policy,
    "delay": _delay,
    "batch size": lambda c: model_config.with_batching(
        c, replace(model_config.batching(c), max_batch_size=c.max_batch_size - 1)
    ),
    "parameter": lambda c: model_config.with_parameter(c, "some", "thing"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_reload_kind_is_what_triton_does(served, change: str) -> None:
    """A full reload zeroes the statistics, an in-place change resets nothing."""
    repository, client, _ = served
    old = repository.read_config("plain")
    copy = ModelConfig()
    copy.CopyFrom(old)
    new = CHANGES[change](copy)
    serve_some(client, "plain")
    before = client.statistics("plain").inference_count
    repository.write_config("plain", new, reason=change)
    client.load("plain")
    reset = client.statistics("plain").inference_count < before
    expected = ReloadKind.RELOAD if reset else ReloadKind.IN_PLACE
    assert model_config.reload_kind(old, new) is expected


def test_a_stray_file_in_the_model_directory_makes_a_count_change_a_reload(served) -> None:
    """Why our temporary files live elsewhere."""
    repository, client, _ = served
    serve_some(client, "plain")
    before = client.statistics("plain").inference_count
    stray = repository.root / "plain" / ".config.pbtxt.swp"
    stray.write_text("an editor was here")
    new = model_config.with_instances(repository.read_config("plain"), 3)
    repository.write_config("plain", new, reason="stray")
    client.load("plain")
    stray.unlink()
    assert client.statistics("plain").inference_count < before
    client.load("plain")


def test_counters_survive_a_reload_and_vanish_with_an_unload(served) -> None:
    """Prometheus counters go on where the statistics start again."""
    repository, client, endpoint = served
    actuator = Actuator(repository, client)

    def success() -> float | None:
        text = requests.get(endpoint.metrics_url, timeout=5).text
        counters = metrics.parse(text).models.get("plain")
        return counters.success if counters else None

    serve_some(client, "plain")
    before = success()
    now = settings_of(client.config("plain"))
    actuator.apply("plain", now, reason="test", fresh=True)
    actuator.apply("plain", replace(now, max_queue_delay_s=0.003), reason="test")
    after = success()
    assert before is not None
    assert after is not None
    assert after >= before
    client.unload("plain")  # the index no longer has it a moment before the counters go
    gone = wait_until(lambda: success() in (None, 0.0))  # the pending gauge may stay behind
    client.load("plain")
    assert gone


def test_a_request_of_more_items_than_the_limit_is_refused(served) -> None:
    """Why control lowers no limit where requests bring batches; its look says that they do."""
    repository, client, endpoint = served
    observer = Observer(client, ScrapedCounters(endpoint.metrics_url))
    six = {"x": np.ones((6, 4), np.float32)}
    serve_some(client, "bulky")
    assert least_batch_limit(observer.look("bulky")) == 1
    client.infer("bulky", six)
    assert wait_until(lambda: least_batch_limit(observer.look("bulky")) == 8)
    config = repository.read_config("bulky")
    smaller = replace(model_config.batching(config), max_batch_size=4)
    repository.write_config("bulky", model_config.with_batching(config, smaller), reason="test")
    client.load("bulky")
    with pytest.raises(ConchError, match="must be <= 4"):
        client.infer("bulky", six)


def test_triton_drops_an_ensemble_whose_member_takes_smaller_batches(served) -> None:
    """What the check above is for: the load is "ok", and so is the member."""
    repository, client, _ = served
    before = repository.config_text("member")
    config = repository.read_config("member")
    config.max_batch_size = 4
    repository.write_config("member", config, reason="test")
    try:
        client.load("member")
        states = client.index()
        assert states["member"] == "READY"
        around = ("pipeline", "outer")
        assert all(states[name] != "READY" for name in around)  # at once: the actuator relies on it
        assert wait_until(lambda: {client.index()[name] for name in around} == {"UNAVAILABLE"})
    finally:
        repository.write_text("member", before, reason="test")
        client.load("member")
    assert client.index()["outer"] == "READY"


def test_start_tells_of_an_ensemble_that_triton_drops_without_a_word(
    tmp_path: Path, start_server
) -> None:
    """Larger batches than its member takes; it has no reason in the index, and is named."""
    scripted.publish(tmp_path, "member", max_batch_size=4)
    scripted.publish_ensemble(tmp_path, "pipeline", "member")
    states = {model.name: model for model in start_server(tmp_path).models}
    assert states["member"].ready
    assert not states["pipeline"].ready
    assert "gives no reason" in states["pipeline"].reason
