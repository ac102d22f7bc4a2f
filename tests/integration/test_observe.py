"""What a look at a real Triton tells: resets, versions, the cache, memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import requests

from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.action import Outcome
from control.core.load import windows
from control.core.types import Observation
from control.watch.machine import Machine
from control.watch.observe import Observer
from control.watch.sources import ScrapedCounters
from serving import model_config
from serving.model_config import ReloadKind
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import wait_until

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def server(tmp_path_factory, start_server) -> TritonServer:
    """A server with two models and a response cache, which ``cached`` uses from the start."""
    root = tmp_path_factory.mktemp("observe") / "repository"
    root.mkdir()
    scripted.publish(root, "quick", max_batch_size=4)
    scripted.publish(root, "cached", max_batch_size=4)
    repository = Repository(root)
    config = model_config.with_response_cache(repository.read_config("cached"), True)
    repository.write_config("cached", config, reason="test")
    return start_server(root, cache_bytes=2**20)


@pytest.fixture(scope="module")
def seen(server: TritonServer, connect):
    """(repository, client, observer) of the server."""
    repository, client = Repository(server.endpoint.repository), connect(server)
    client.load("quick")  # Python has put its bytecode beside it: the first load is a full one
    source = ScrapedCounters(server.endpoint.metrics_url)
    host = Machine(pid=server.endpoint.pid)
    return repository, client, Observer(client, source, repository, host=host)


def _ask(client, model: str, count: int) -> None:
    for _ in range(count):
        client.infer(model, X)


def _look_after(observer: Observer, model: str, success: float) -> Observation:
    """A look whose counters have arrived: Triton counts a moment after it answers."""
    looks: list[Observation] = []

    def counted() -> bool:
        looks.append(observer.look(model))
        counters = looks[-1].counters
        return counters is not None and counters.success >= success

    assert wait_until(counted)
    return looks[-1]


def test_in_place_change_resets_nothing_and_a_reload_only_the_statistics(seen) -> None:
    """The interval across each is what happened; across a reload it has no service times."""
    repository, client, observer = seen
    actuator = Actuator(repository, client)
    _ask(client, "quick", 5)
    before = _look_after(observer, "quick", 5)
    assert before.applied is not None
    more = replace(before.applied, instances=2)
    action = actuator.apply("quick", more, reason="test")
    assert (action.kind, action.outcome) == (ReloadKind.IN_PLACE, Outcome.APPLIED)
    _ask(client, "quick", 3)
    middle = _look_after(observer, "quick", 9)
    assert middle.applied == more
    interval = windows.interval(before, middle, stale_s=60)
    assert interval is not None
    assert interval.statistics is not None
    assert interval.completed >= 3
    other = replace(more, max_batch_size=2)
    action = actuator.apply("quick", other, reason="test")
    assert (action.kind, action.outcome) == (ReloadKind.RELOAD, Outcome.APPLIED)
    assert middle.counters is not None
    _ask(client, "quick", 3)
    after = _look_after(observer, "quick", middle.counters.success + 3)
    assert after.statistics is not None
    assert middle.statistics is not None
    assert after.statistics.success_count < middle.statistics.success_count
    interval = windows.interval(middle, after, stale_s=60)
    assert interval is not None
    assert interval.statistics is None
    assert interval.completed >= 3


def test_look_tells_of_cache_versions_machine_and_memory(seen) -> None:
    """Each by the names of a real server; one survey for both models."""
    _, client, observer = seen
    _ask(client, "cached", 10)
    _look_after(observer, "cached", 10)
    assert wait_until(lambda: observer.look("quick").cpu_fraction is not None)
    survey = observer.survey(["quick", "cached"])
    look, other = (observer.look(name, survey=survey) for name in ("cached", "quick"))
    assert look.counters is not None
    assert other.counters is not None
    assert look.applied is not None
    assert look.counters.cache_hits >= 9
    assert look.counters.cache_hits + look.counters.cache_misses == look.counters.success
    assert (other.counters.cache_hits, other.counters.cache_misses) == (0, 0)
    assert look.counters_at_s == other.counters_at_s
    assert (look.applied.response_cache, look.versions) == (True, (1,))
    assert look.cpu_fraction is not None
    assert 0 <= look.cpu_fraction <= 1
    assert look.memory_free_bytes is not None
    assert look.memory_free_bytes > 2**20
    assert look.memory_copy_bytes is not None
    assert 5 * 2**20 < look.memory_copy_bytes < 2**30  # a Python process
    assert look.gpu_fraction is None


def test_cache_and_version_switch_and_back(seen) -> None:
    """The cache is a reload and keeps the counters going; a version is in place."""
    repository, client, observer = seen
    (repository.root / "quick" / "2").mkdir()
    model = repository.root / "quick" / "1" / "model.py"
    (repository.root / "quick" / "2" / "model.py").write_bytes(model.read_bytes())
    actuator = Actuator(repository, client)
    now = settings_of(client.config("quick"))
    # Not to the version that is served already: Triton leaves it alone, and its config as it was.
    for wanted, kind in (
        (replace(now, version=2), ReloadKind.IN_PLACE),
        (replace(now, version=1), ReloadKind.IN_PLACE),
        (replace(now, version=1, response_cache=True), ReloadKind.RELOAD),
        (replace(now, version=1), ReloadKind.RELOAD),
        (now, ReloadKind.IN_PLACE),  # the newest
    ):
        before = observer.look("quick")
        action = actuator.apply("quick", wanted, reason="test")
        assert (action.kind, action.outcome) == (kind, Outcome.APPLIED), action.error
        _ask(client, "quick", 2)
        assert before.counters is not None
        after = _look_after(observer, "quick", before.counters.success + 2)
        assert after.applied == wanted
        assert after.versions == (1, 2)
        assert windows.interval(before, after, stale_s=60) is not None


def test_a_reload_that_switches_the_cache_on_leaves_the_counters_without_it(seen, server) -> None:
    """The statistics count the hits; Triton's metrics of the model stay as they began."""
    repository, client, observer = seen
    actuator = Actuator(repository, client)
    now = settings_of(client.config("quick"))
    action = actuator.apply("quick", replace(now, response_cache=True), reason="test")
    assert (action.kind, action.outcome) == (ReloadKind.RELOAD, Outcome.APPLIED), action.error
    before = observer.look("quick")
    _ask(client, "quick", 5)
    assert before.counters is not None
    after = _look_after(observer, "quick", before.counters.success + 5)
    assert after.statistics is not None
    assert after.statistics.cache_hits >= 4
    interval = windows.interval(before, after, stale_s=60)
    assert interval is not None
    assert interval.cache_hits >= 4
    text = requests.get(server.endpoint.metrics_url, timeout=5).text
    counted, cached = (
        {line.partition("{")[0] for line in text.splitlines() if f'model="{name}"' in line}
        for name in ("quick", "cached")
    )
    assert "nv_inference_request_success" in counted
    assert "nv_cache_num_hits_per_model" in cached
    assert not any(name.startswith("nv_cache") for name in counted)
    actuator.apply("quick", now, reason="back")
