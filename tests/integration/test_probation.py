"""Configs that kill the server, on a real Triton: what comes back, and what is not tried again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from control import life, session
from control.act import probation
from control.act.knobs import settings_of
from control.core.memory.state import ControlState
from control.core.reasons import Clamp, Reason
from control.core.types import Decision, Settings
from control.journal.writer import Journal
from control.loop import ControlLoop
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode
from serving import model_config, pending
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.changeable import X
from tests.integration.conftest import wait_until
from tests.unit.guarded import guarded
from tests.unproven import recorded

KILLER = '''
import json, os, signal, threading, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Doubles x; kills its server ``kill_s`` after it was loaded with a batch above 8."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        kill_s = float(config["parameters"]["kill_s"]["string_value"])
        if config["max_batch_size"] > 8:
            if not kill_s:
                os.kill(os.getppid(), signal.SIGKILL)
            threading.Timer(kill_s, os.kill, (os.getppid(), signal.SIGKILL)).start()

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", t + t)]) for t in tensors]
'''
POLICY = PolicyFile(tick=0.25, defaults=ModelPolicy(slo=1.0))


@contextmanager
def _serving(folder: Path, kill_s: float) -> Iterator[tuple[Repository, TritonServer]]:
    """A server of its own, which is known to other commands, with such a model."""
    root = folder / "repository"
    root.mkdir()
    scripted.publish(root, "killer", kill_s=kill_s)
    (root / "killer" / "1" / "model.py").write_text(KILLER)
    with (
        pytest.MonkeyPatch.context() as patch,
        TritonServer(
            root,
            name="killed",
            log_path=folder / "triton.log",
            exit_timeout_s=0,
            on_restart=endpoints.save,
        ) as server,
    ):
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        yield Repository(root), server


def _raised(loop: ControlLoop, applied: Settings) -> Decision:
    """A decision for batches of 16."""
    return Decision(
        tick_id="t1",
        at_s=loop.clock(),
        reason=Reason.REBATCH,
        applied=applied,
        desired=replace(applied, max_batch_size=16),
    )


def _served(server: TritonServer) -> Settings | None:
    """What the server serves now; None while it does not."""
    from conch.errors import ConchError

    endpoint = server.endpoint
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key, deadline_s=2) as client:
        try:
            client.infer("killer", X)
            return settings_of(client.config("killer"))
        except ConchError:
            return None


@pytest.mark.parametrize("kill_s", [0.0, 1.0], ids=["while it loads", "a second later"])
def test_a_config_that_kills_the_server_is_taken_back_and_blocked(
    tmp_path: Path, kill_s: float
) -> None:
    """Whoever restarts the server: it serves the old config again, and dies no more."""
    with _serving(tmp_path, kill_s) as (repository, server):
        before, was = repository.config_text("killer"), _served(server)
        assert was is not None
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
            decision = _raised(loop, was)
            loop.begin("killer", decision)
            began_s = time.monotonic()
            until_s = began_s + 60
            while time.monotonic() < until_s and not (
                server.restart_count and loop._states["killer"].changes and _served(server) == was
            ):
                list(loop.tick())
                time.sleep(0.1)
            assert _served(server) == was
            assert repository.config_text("killer") == before
            assert server.restart_count <= 2  # and no crash loop
            assert decision.desired is not None
            with Journal(session.journal_path(repository), read_only=True) as journal:
                later = ControlState(changes=journal.tried("killer", since_s=0.0))
            for state in (loop._states["killer"], later):
                again = guarded(
                    decision.desired,
                    was,
                    state,
                    replace(loop.policies["killer"], cooldown_s=0.0),
                    at_s=loop.clock() + 60.0,
                )
                assert again.clamps == (Clamp.BLOCKED,)
            assert pending.read(repository, "killer") is None


def test_a_change_is_settled_once_the_server_has_lived_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the controller that made it, or by the next one; one that died in between is adopted."""
    with _serving(tmp_path, 0.0) as (repository, server):
        was = _served(server)
        assert was is not None
        first, third = replace(was, instances=2), replace(was, instances=3)
        monkeypatch.setattr(probation, "SETTLED_S", 3600.0)
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
            action = life.act(loop, "killer", replace(_raised(loop, was), desired=first))
            record = pending.read(repository, "killer")
            assert record is not None
            assert record.revision == action.revision
            number = record.previous
            life.act(loop, "killer", replace(_raised(loop, first), desired=third))
            record = pending.read(repository, "killer")
            assert record is not None
            assert record.previous == number  # neither is proven: what was before both
        monkeypatch.setattr(probation, "SETTLED_S", 0.5)
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
            adopted = pending.read(repository, "killer")
            assert adopted is None or adopted.epoch != record.epoch
            assert wait_until(lambda: pending.read(repository, "killer") is None)
            assert loop.probation is not None
            probation_of = loop.probation  # the record goes first, then it is forgotten
            assert wait_until(lambda: probation_of.unproven() == [])
        assert _served(server) == third


def test_what_conch_serve_took_back_is_told_to_the_core(tmp_path: Path) -> None:
    """It reverts the file and marks the record; the controller loads it, and blocks the change."""
    with _serving(tmp_path, 0.0) as (repository, server):
        was = _served(server)
        assert was is not None
        wanted = replace(was, instances=2)
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
            life.act(loop, "killer", replace(_raised(loop, was), desired=wanted))
            record = pending.read(repository, "killer")
            assert record is not None
            assert pending.revert(repository, record, why="it died")
            until_s = time.monotonic() + 30
            while time.monotonic() < until_s and _served(server) != was:
                list(loop.tick())
                time.sleep(0.1)
            assert _served(server) == was
            last = loop._states["killer"].changes[-1]
            assert (last.settings, last.before, last.undo) == (was, wanted, True)
            assert pending.read(repository, "killer") is None
            assert not next(loop.tick()).observation.edited


def test_a_change_that_was_written_and_never_loaded_goes_back_at_the_start(tmp_path: Path) -> None:
    """Its controller died in between, and Triton serves what was before."""
    with _serving(tmp_path, 0.0) as (repository, server):
        before, was = repository.config_text("killer"), _served(server)
        config = model_config.with_instances(repository.read_config("killer"), 2)
        revision = repository.write_config("killer", config, reason="A", tick_id="t")
        recorded(repository, "killer", revision)
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE):
            assert repository.config_text("killer") == before
            assert _served(server) == was


HANGS = textwrap.dedent("""
    import os, signal, sys, threading
    from dataclasses import replace
    from pathlib import Path
    from cli import ending
    from conch import log
    from control import life, session
    from control.act.knobs import settings_of
    from control.core.reasons import Reason
    from control.core.types import Decision
    from control.policy_file import PolicyFile
    from control.tick import Mode
    from serving.client import TritonClient
    from serving.repository import Repository
    from serving.runtime import endpoint as endpoints

    log.configure(0)
    where = sys.argv[1]
    endpoint = endpoints.resolve()
    loaded = TritonClient.load

    def load(self, name, **arguments):
        os.kill(endpoint.pid, signal.SIGSTOP)
        print("stopped", flush=True)
        return loaded(self, name, **arguments)

    TritonClient.load = load
    stop = threading.Event()
    ending.on_signal(stop)
    repository = Repository(endpoint.repository)
    with session.session(
        endpoint, repository, PolicyFile(tick=0.25), mode=Mode.ACTIVE, stop=stop
    ) as loop:
        if where == "change":
            now = next(loop.tick()).observation.applied
            decision = Decision(tick_id="t", at_s=loop.clock(), reason=Reason.SCALE_UP_LOAD,
                                applied=now, desired=replace(now, instances=2))
            loop.begin("killer", decision)
        life.run(loop, tick_s=0.25, stop=stop)
""")


@pytest.mark.parametrize("where", ["change", "start"])
def test_a_signal_ends_the_controller_within_ten_seconds(tmp_path: Path, where: str) -> None:
    """Triton is stopped in the middle of a load; the next controller brings order."""
    with _serving(tmp_path, 0.0) as (repository, server):
        was = _served(server)
        assert was is not None
        if where == "start":  # what an earlier controller wrote, and never loaded
            config = model_config.with_instances(repository.read_config("killer"), 2)
            repository.write_config("killer", config, reason="A", tick_id="t")
        process = subprocess.Popen(
            [sys.executable, "-c", HANGS, where],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pid = server.endpoint.pid
        assert pid is not None
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"stopped\n"
            began_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            assert time.monotonic() - began_s <= 10.0
        finally:
            os.kill(pid, signal.SIGCONT)
            process.kill()
            process.communicate()
        whole = settings_of(repository.read_config("killer"))
        assert whole in (was, replace(was, instances=2))
        assert wait_until(lambda: _served(server) is not None)
        with session.session(server.endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
            assert wait_until(
                lambda: (
                    not next(iter(loop.tick())).observation.edited
                    and settings_of(repository.read_config("killer")) == _served(server)
                )
            )
