"""A person's edits of config.pbtxt while control runs, and models that cannot be controlled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from cli.main import root
from conch.errors import ApplyRejected, ConfigError
from control import session
from control.act import actuator as actuator_module
from control.act.actuator import Actuator
from control.act.around import Around
from control.act.knobs import settings_of
from control.action import Edited
from control.core.reasons import Reason
from control.loop import ControlLoop
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from tests.integration import onnx_models, scripted
from tests.integration.changeable import X, serve_some
from tests.integration.conftest import wait_until

POLICY = PolicyFile(tick=0.25, defaults=ModelPolicy(slo=1.0))


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint): one model to edit, and a mixture of others."""
    folder = tmp_path_factory.mktemp("edits")
    root = folder / "repository"
    root.mkdir()
    scripted.publish(root, "edited")
    scripted.publish(root, "other")
    scripted.publish_ensemble(root, "pipeline", "other")
    scripted.publish(root, "two_kinds")
    path = root / "two_kinds" / "config.pbtxt"
    path.write_text(path.read_text() + "instance_group { count: 1 kind: KIND_MODEL }\n")
    onnx_models.publish_double(root, "no_group", config="instance_group { }")
    server = start_server(root)
    (root / "broken").mkdir()
    (root / "broken" / "config.pbtxt").write_text("max_batch_size: eight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        yield Repository(root), connect(server), server.endpoint


@pytest.fixture
def loop(served) -> Iterator[ControlLoop]:
    """An active controller of all that can be controlled."""
    with session.session(served[2], served[0], POLICY, mode=Mode.ACTIVE) as running:
        yield running


def _conch(*arguments: str) -> Result:
    """One command."""
    return CliRunner().invoke(root, list(arguments))


def _reason(loop: ControlLoop) -> Reason:
    """Of the newest look at the edited model."""
    ticks = {tick.model: tick for tick in loop.tick()}
    assert ticks["other"].decision.reason is not Reason.HOLD_EDITED
    return ticks["edited"].decision.reason


def _sees(loop: ControlLoop, *, edited: bool) -> bool:
    """Whether the loop comes to hold for an edit, or no longer does."""
    return wait_until(lambda: (_reason(loop) is Reason.HOLD_EDITED) is edited)


def _write(repository: Repository, text: str) -> None:
    """An editor's save."""
    path = repository.root / "edited" / "config.pbtxt"
    stamp = path.stat().st_mtime_ns + 10_000_000
    path.write_text(text)
    os.utime(path, ns=(stamp, stamp))


EDITS: dict[str, Callable[[str], str]] = {
    "a delay": lambda text: text.replace("ing { }", "ing { max_queue_delay_microseconds: 9000 }"),
    "a parameter": lambda text: text + 'parameters { key: "z" value { string_value: "1" } }\n',
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_held_and_loaded_while_control_runs(served, loop, edit) -> None:
    """It is seen at the next look, told in status and explain, and never loaded with a change."""
    repository, client, _ = served
    before, shown = repository.config_text("edited"), client.config("edited")
    serve_some(client, "edited")
    assert _sees(loop, edited=False)
    _write(repository, before + "# a comment is no edit\n")
    assert _sees(loop, edited=False)
    _write(repository, edit(before))
    assert _reason(loop) is Reason.HOLD_EDITED
    assert _reason(loop) is Reason.HOLD_EDITED
    now = settings_of(shown)
    with pytest.raises(Edited, match="edited by hand"):
        loop.actuator.apply("edited", replace(now, instances=2), reason="test")
    assert repository.config_text("edited") == edit(before)
    assert client.config("edited") == shown
    for command in (("status",), ("explain", "edited")):
        told = _conch("control", *command, "--repository", str(repository.root))
        assert "conch repo load edited" in told.output, told.output
        assert "conch repo rollback edited --to N" in told.output
    rows = json.loads(
        _conch("control", "status", "--repository", str(repository.root), "--json").stdout
    )
    assert {row["model"]: row["edited"] for row in rows["models"]}["edited"]
    done = _conch("repo", "load", "edited", "--repository", str(repository.root))
    assert done.exit_code == 0, done.output
    assert client.config("edited") != shown
    assert _sees(loop, edited=False)
    owner = next(tick for tick in loop.tick() if tick.model == "edited").observation.owner
    assert owner == settings_of(client.config("edited"))
    _write(repository, before)
    assert _conch("repo", "load", "edited", "--repository", str(repository.root)).exit_code == 0


@pytest.mark.parametrize("text", ["garbage {{{", "max_batch_size: 4\n"])
def test_an_edit_is_taken_back_while_control_runs(served, loop, text: str) -> None:
    """By a rollback, which is refused for a model that is not edited."""
    repository, client, _ = served
    before, shown = repository.config_text("edited"), client.config("edited")
    repository.write_text("edited", before + "\n", reason="test")
    repository.write_text("edited", before, reason="test")
    number = repository.revisions("edited").newest().number
    assert _sees(loop, edited=False)
    command = ("repo", "rollback", "edited", "--to", str(number))
    refused = _conch(*command, "--repository", str(repository.root))
    assert "another control loop is running" in str(refused.exception)
    _write(repository, text)
    assert _sees(loop, edited=True)
    done = _conch(*command, "--repository", str(repository.root))
    assert done.exit_code == 0, done.output
    assert repository.config_text("edited") == before
    assert _sees(loop, edited=False)
    assert settings_of(client.config("edited")) == settings_of(shown)
    assert client.infer("edited", X)["y"].tolist() == [[2.0] * 4]


def test_an_edit_that_triton_refuses_stays_the_owners(served, loop) -> None:
    """The old config serves on, the file is as they wrote it, and the loop holds."""
    repository, client, _ = served
    before, shown = repository.config_text("edited"), client.config("edited")
    _write(repository, before.replace('"python"', '"no_such_backend"'))
    refused = _conch("repo", "load", "edited", "--repository", str(repository.root))
    assert refused.exit_code != 0
    assert "no_such_backend" in repository.config_text("edited")
    assert client.config("edited") == shown
    assert _sees(loop, edited=True)
    with session_after(served) as later:  # nor does a controller that starts then load it
        assert _sees(later, edited=True)
    _write(repository, before)
    assert _sees(loop, edited=False)


def session_after(served) -> object:
    """An advisory loop beside the one that runs."""
    return session.session(served[2], served[0], POLICY, mode=Mode.ADVISORY)


def test_models_that_cannot_be_controlled_are_left_out_with_a_line_each(served, loop) -> None:
    """The others are controlled; nobody is told of kinds that are not theirs."""
    assert set(loop.policies) == {"edited", "no_group", "other"}
    assert (
        "not a model config" in loop.left_out["broken"] or "not loaded" in loop.left_out["broken"]
    )
    assert "control its members, other" in loop.left_out["pipeline"]
    assert "different kinds (KIND_CPU, KIND_MODEL)" in loop.left_out["two_kinds"]


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (["typo"], "model typo: not in"),
        (["pipeline"], "ensemble"),
        (["broken", "edited"], "broken not loaded"),
        (["two_kinds"], "two_kinds: its 2 instance groups are of different kinds"),
    ],
)
def test_a_policy_that_means_what_is_not_there_is_refused(
    served, models: list[str], says: str
) -> None:
    """Before anything starts; and where none is left, with why."""
    policy = PolicyFile(models={name: ModelPolicy() for name in models})
    with (
        pytest.raises(ConfigError, match=says.replace("(", r"\(")),
        session.session(served[2], served[0], policy, mode=Mode.ADVISORY),
    ):
        pass


def test_an_edit_in_the_middle_of_a_change_is_never_overwritten(
    served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write, before the load, and between the load and a rollback."""
    repository, client, _ = served
    path = repository.config_path("other")
    before = path.read_text()
    edited = f"# by hand\n{before}"
    actuator = Actuator(repository, client)
    wanted = replace(settings_of(client.config("other")), instances=2)

    def edits(self: Around, *_: object, **__: object) -> list[str]:
        path.write_text(edited)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(Around, "served", edits)
        with pytest.raises(Edited):
            actuator.apply("other", wanted, reason="test")
    assert path.read_text() == edited
    path.write_text(before)

    def fails(self: Actuator, *_: object, **__: object) -> None:
        path.write_text(edited)
        raise ApplyRejected("no.")

    with monkeypatch.context() as patch:
        patch.setattr(Actuator, "_load_and_verify", fails)
        with pytest.raises(Edited):
            actuator.apply("other", wanted, reason="test")
    assert path.read_text() == edited
    path.write_text(before)
    client.load("other")

    def edits_the_count(place: str) -> None:
        if place == "actuator.before_load":
            path.write_text(edited.replace("count: 1", "count: 3"))

    shown = client.config("other")
    assert "count: 1" in edited
    with monkeypatch.context() as patch:
        patch.setattr(actuator_module, "failpoint", edits_the_count)
        with pytest.raises(Edited):
            actuator.apply("other", wanted, reason="test")
    assert path.read_text() == edited.replace("count: 1", "count: 3")
    assert client.config("other") == shown
    path.write_text(before)
    client.load("other")
