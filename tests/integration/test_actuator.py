"""The actuator on a real Triton: what a change costs, and what it leaves when it fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.action import Outcome
from perf.bench.actuator import bench_actuator
from perf.replay import ReplayTarget
from serving import model_config
from serving.model_config import ReloadKind
from tests.integration import changeable, scripted
from tests.integration.changeable import X, serve_some


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
    return changeable.serve(root, start_server, connect, settled=("plain", "picky"))


@pytest.fixture
def actuator(served) -> Actuator:
    """An actuator on that server."""
    return Actuator(served[0], served[1])


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
    serve_some(client, "plain", 8)
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
    """A person's edit that Triton would refuse: the model goes on serving, nothing is unloaded.

    It is theirs to load; the same text written by us, and not loaded, is undone at the next start.
    """
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
    assert not Actuator(repository, client).reconcile("picky")
    assert repository.config_text("picky") == model_config.to_text(edited)
    repository.config_path("picky").write_text(before)
    repository.write_config("picky", edited, reason="REBATCH", tick_id="t")
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
