"""The actuator on a real Triton: what a change costs, what a failure or a kill -9 leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests

from control.actuator import Actuator, Outcome
from control.observe import settings_of
from perf.bench.actuator import bench_actuator
from perf.replay import ReplayTarget
from serving import metrics, model_config, probe
from serving.client import TritonClient
from serving.model_config import ModelConfig, ReloadKind
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from tests.integration import scripted
from tests.integration.conftest import wait_until

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint) of one server with the scripted models."""
    root = tmp_path_factory.mktemp("repository")
    scripted.publish(root, "plain")
    scripted.publish(root, "picky", refuse_batch=16, broken_batch=4)
    scripted.publish(root, "mute", broken_batch=8)
    scripted.publish(root, "member")
    scripted.publish_ensemble(root, "pipeline", "member")
    scripted.publish_ensemble(root, "outer", "pipeline", max_batch_size=4)
    server = start_server(root)
    repository, client = Repository(root), connect(server)
    for name in ("plain", "picky"):
        # The first load leaves a __pycache__ in the model directory: a newer file, for which the
        # next change would be a reload. One reload later it is old.
        config = model_config.with_parameter(repository.read_config(name), "first", "reload")
        repository.write_config(name, config, reason="first")
        client.load(name)
    return repository, client, server.endpoint


@pytest.fixture
def actuator(served) -> Actuator:
    """An actuator on that server."""
    return Actuator(served[0], served[1])


def _serve_some(client: TritonClient, name: str, count: int = 5) -> None:
    for _ in range(count):
        client.infer(name, X)
    # Statistics are counted after the answer is sent.
    until = time.monotonic() + 5
    seen = client.statistics(name).inference_count
    while seen < count and time.monotonic() < until:
        time.sleep(0.02)
        seen = client.statistics(name).inference_count


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
    _serve_some(client, "plain")
    before = client.statistics("plain").inference_count
    repository.write_config("plain", new, reason=change)
    client.load("plain")
    reset = client.statistics("plain").inference_count < before
    expected = ReloadKind.RELOAD if reset else ReloadKind.IN_PLACE
    assert model_config.reload_kind(old, new) is expected


def test_a_stray_file_in_the_model_directory_makes_a_count_change_a_reload(served) -> None:
    """Why our temporary files live elsewhere."""
    repository, client, _ = served
    _serve_some(client, "plain")
    before = client.statistics("plain").inference_count
    stray = repository.root / "plain" / ".config.pbtxt.swp"
    stray.write_text("an editor was here")
    new = model_config.with_instances(repository.read_config("plain"), 3)
    repository.write_config("plain", new, reason="stray")
    client.load("plain")
    stray.unlink()
    assert client.statistics("plain").inference_count < before
    client.load("plain")


def test_counters_survive_a_reload_and_vanish_with_an_unload(served, actuator: Actuator) -> None:
    """Prometheus counters go on where the statistics start again."""
    _, client, endpoint = served

    def success() -> float | None:
        text = requests.get(endpoint.metrics_url, timeout=5).text
        counters = metrics.parse(text).models.get("plain")
        return counters.success if counters else None

    _serve_some(client, "plain")
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


def test_apply_resizes_in_place_and_says_so(served, actuator: Actuator) -> None:
    """The count is in force, on disk, and in the history."""
    repository, client, _ = served
    now = settings_of(client.config("plain"))
    action = actuator.apply(
        "plain", replace(now, instances=now.instances + 1), reason="test", tick_id="t7"
    )
    assert (action.kind, action.outcome) == (ReloadKind.IN_PLACE, Outcome.APPLIED)
    assert settings_of(client.config("plain")).instances == now.instances + 1
    assert settings_of(repository.read_config("plain")).instances == now.instances + 1
    newest = repository.revisions("plain").newest()
    assert newest is not None
    assert (newest.tick_id, newest.number) == ("t7", action.revision)


def test_apply_fresh_makes_a_resize_a_reload(served, actuator: Actuator) -> None:
    """The way out of a saturated model: a second copy, and counting starts again."""
    _, client, _ = served
    now = settings_of(client.config("plain"))
    _serve_some(client, "plain", 8)
    action = actuator.apply(
        "plain", replace(now, instances=now.instances + 1), reason="test", fresh=True
    )
    assert (action.kind, action.outcome) == (ReloadKind.RELOAD, Outcome.APPLIED)
    assert client.statistics("plain").inference_count < 8


def test_apply_of_what_is_in_force_makes_no_call(served, actuator: Actuator) -> None:
    """Twice the same desired state: no write, no load."""
    repository, client, _ = served
    now = settings_of(client.config("plain"))
    stamp = repository.config_path("plain").stat().st_mtime_ns
    assert actuator.apply("plain", now, reason="again").outcome is Outcome.UNCHANGED
    assert repository.config_path("plain").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("batch", [16, 4], ids=["load is refused", "probe fails"])
def test_apply_rolls_back_what_does_not_hold(served, actuator: Actuator, batch: int) -> None:
    """The previous bytes are back on disk and the previous model serves."""
    repository, client, _ = served
    before = repository.config_text("picky")
    now = settings_of(client.config("picky"))
    action = actuator.apply("picky", replace(now, max_batch_size=batch), reason="test")
    assert action.outcome is Outcome.ROLLED_BACK
    assert "memory" in action.error or "on purpose" in action.error
    assert repository.config_text("picky") == before
    assert settings_of(client.config("picky")) == now
    assert client.infer("picky", X)["y"].tolist() == [[2.0] * 4]


def test_apply_rolls_back_what_takes_an_ensemble_out_of_service(served, actuator: Actuator) -> None:
    """Triton says "ok" to the load of the member and drops the ensembles around it."""
    repository, client, _ = served
    before = repository.config_text("member")
    now = settings_of(client.config("member"))
    action = actuator.apply("member", replace(now, max_batch_size=4), reason="test")
    assert action.outcome is Outcome.ROLLED_BACK
    assert "no longer serves outer, pipeline" in action.error
    assert repository.config_text("member") == before
    for name in ("member", "pipeline", "outer"):
        assert client.infer(name, X)["y"].tolist() == [[2.0] * 4]
    larger = actuator.apply("member", replace(now, max_batch_size=16), reason="test")
    assert larger.outcome is Outcome.APPLIED
    assert client.infer("outer", X)["y"].tolist() == [[2.0] * 4]


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


def test_apply_on_a_full_disk_changes_nothing(
    served, actuator: Actuator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk and server stay as they were."""
    from conch.errors import RepositoryError

    repository, client, _ = served
    before = repository.config_text("picky")
    now = settings_of(client.config("picky"))
    monkeypatch.setenv("CONCH_FAILPOINT", "repository.config.temp_written=enospc")
    with pytest.raises(RepositoryError, match="No space left"):
        actuator.apply("picky", replace(now, instances=2), reason="test")
    assert repository.config_text("picky") == before
    assert settings_of(client.config("picky")) == now


def test_plan_refuses_a_broken_config_on_disk(served, actuator: Actuator) -> None:
    """A person's half-finished edit stops the change, not the server."""
    from conch.errors import ConfigError

    repository, client, _ = served
    before = repository.config_text("picky")
    now = settings_of(client.config("picky"))
    repository.config_path("picky").write_text("max_batch_size: eight")
    try:
        with pytest.raises(ConfigError, match="not a model config"):
            actuator.apply("picky", replace(now, instances=2), reason="test")
    finally:
        repository.config_path("picky").write_text(before)
    assert client.infer("picky", X)["y"].tolist() == [[2.0] * 4]


def test_apply_refuses_to_bring_an_unloaded_edit_into_force(served, actuator: Actuator) -> None:
    """A person's edit that Triton would refuse: the model goes on serving, nothing is unloaded."""
    from conch.errors import ApplyRejected

    repository, client, _ = served
    before, now = repository.config_text("picky"), settings_of(client.config("picky"))
    edited = model_config.with_batching(
        repository.read_config("picky"),
        replace(model_config.batching(repository.read_config("picky")), max_batch_size=16),
    )
    repository.config_path("picky").write_text(model_config.to_text(edited))
    with pytest.raises(ApplyRejected, match="but Triton serves"):
        actuator.apply("picky", replace(now, instances=2), reason="test")
    assert client.infer("picky", X)["y"].tolist() == [[2.0] * 4]
    assert actuator.reconcile("picky")
    assert settings_of(repository.read_config("picky")) == now
    assert settings_of(client.config("picky")) == now
    repository.restore("picky", before, reason="test", tick_id="")
    client.load("picky")


def test_apply_changes_a_model_that_never_answers_the_probe(served, actuator: Actuator) -> None:
    """What it did not do before the change is no fault of the change; it is never unloaded."""
    _, client, _ = served
    now = settings_of(client.config("mute"))
    action = actuator.apply("mute", replace(now, instances=2), reason="test")
    assert action.outcome is Outcome.APPLIED
    assert client.index()["mute"] == "READY"


APPLY = textwrap.dedent("""
    import sys
    from dataclasses import replace
    from pathlib import Path
    from control.actuator import Actuator
    from control.observe import settings_of
    from serving.client import TritonClient
    from serving.repository import Repository
    root, url, key, model, instances, batch = sys.argv[1:]
    with TritonClient(url, admin_key=key) as client:
        now = settings_of(client.config(model))
        wanted = replace(now, instances=int(instances), max_batch_size=int(batch))
        Actuator(Repository(Path(root)), client).apply(model, wanted, reason="killed")
""")

KILLS = [
    "actuator.before_write",
    "repository.before_revision",
    "revision.text.temp_written",
    "revision.text.renamed",
    "revision.record.temp_written",
    "revision.record.renamed",
    "repository.config.temp_written",
    "repository.config.renamed",
    "actuator.before_load",
    "actuator.after_load",
    "actuator.after_probe",
]


def _killed(
    repository: Repository, endpoint: Endpoint, point: str, *, model: str, batch: int
) -> None:
    """Run one change in a process that dies at ``point``."""
    arguments = [
        str(repository.root),
        endpoint.grpc_url,
        str(endpoint.admin_key),
        model,
        "2",
        str(batch),
    ]
    done = subprocess.run(
        [sys.executable, "-c", APPLY, *arguments],
        env={**os.environ, "CONCH_FAILPOINT": f"{point}=kill", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-500:]


@pytest.mark.parametrize("point", KILLS)
def test_kill_at_any_step_leaves_a_whole_config_and_a_serving_model(served, point: str) -> None:
    """Old or new, never half; the model answers; the next start brings the disk into force."""
    repository, client, endpoint = served
    name = "picky"
    now = settings_of(client.config(name))
    old = repository.config_text(name)
    new = model_config.to_text(model_config.with_instances(repository.read_config(name), 2))
    _killed(repository, endpoint, point, model=name, batch=now.max_batch_size)

    assert repository.config_text(name) in (old, new)
    assert client.infer(name, X)["y"].tolist() == [[2.0] * 4]
    again = Actuator(repository, client)
    again.reconcile(name)
    assert settings_of(client.config(name)) == settings_of(repository.read_config(name))
    assert probe.probe(client, client.config(name)) < 5
    assert again.apply(name, now, reason="back").outcome is not Outcome.ROLLED_BACK
    assert settings_of(client.config(name)) == now
    assert _stray(repository.root) == []


def test_kill_in_the_middle_of_a_rollback_leaves_the_old_config(served) -> None:
    """The refused change is off the disk before anything else happens."""
    repository, client, endpoint = served
    now = settings_of(client.config("picky"))
    before = repository.config_text("picky")
    _killed(repository, endpoint, "actuator.rolled_back", model="picky", batch=16)
    assert repository.config_text("picky") == before
    assert client.infer("picky", X)["y"].tolist() == [[2.0] * 4]
    Actuator(repository, client).reconcile("picky")
    assert settings_of(client.config("picky")) == now


def _stray(root: Path) -> list[Path]:
    """Files in model directories that do not belong there."""
    return [
        path
        for model in root.iterdir()
        if model.name != ".conch"
        for path in model.iterdir()
        if path.name != "config.pbtxt" and not path.name.isdigit()
    ]


def test_resizes_and_reloads_under_load_fail_no_request(served) -> None:
    """The benchmark of the promise, in small: 6 resizes and 3 reloads at 60 req/s."""
    repository, client, endpoint = served
    before = settings_of(client.config("plain"))
    target = ReplayTarget(grpc_url=endpoint.grpc_url, model="plain", inputs=X)
    kinds: list[ReloadKind] = []
    found = bench_actuator(
        client,
        repository,
        target,
        resizes=6,
        reloads=3,
        rate_rps=60,
        on_action=lambda action: kinds.append(action.kind),
    )
    assert kinds == [ReloadKind.IN_PLACE] * 6 + [ReloadKind.RELOAD] * 3
    assert (found.failed, found.rolled_back) == (0, 0)
    assert found.requests > 100
    assert settings_of(client.config("plain")) == before
