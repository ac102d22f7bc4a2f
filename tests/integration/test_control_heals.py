"""Dead stubs on a server that nobody looks after but the controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from control import life, session
from control.act import healer
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import StartServer, wait_until
from tests.integration.dying_stubs import alive, healed, kill
from tests.integration.load import Load

POLICY = PolicyFile(tick=0.25, defaults=ModelPolicy(slo=0.5, rebatch=False))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A model of two instances."""
    root = tmp_path_factory.mktemp("repository")
    scripted.publish(root, "two", batch_s=0.01)
    scripted.set_count(root, "two", 2)
    return Repository(root)


@pytest.fixture(scope="module")
def server(start_server: StartServer, repository: Repository) -> TritonServer:
    """A Triton that is left alone by who started it."""
    return start_server(repository.root, restart=False)


def _beside_control(
    endpoint: Endpoint, repository: Repository, body: Callable[[], None]
) -> Future[None]:
    """Run the body in a thread beside a controller, until it ends; gives how it ended."""
    stop, done = threading.Event(), Future[None]()

    def run() -> None:
        try:
            done.set_result(body())
        except BaseException as error:
            done.set_exception(error)
        finally:
            stop.set()

    with session.session(endpoint, repository, POLICY, mode=Mode.ACTIVE) as loop:
        threading.Thread(target=run).start()
        life.run(loop, tick_s=POLICY.tick, stop=stop)
    return done


@pytest.mark.parametrize("seen_by", ["pid", "port", "answers"])
@pytest.mark.parametrize("killed", [1, 2])
def test_a_controller_heals_dead_stubs(
    server: TritonServer,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    seen_by: str,
    killed: int,
) -> None:
    """Seen as processes of ours, as those behind the port, or by what failing requests say."""
    endpoint = server.endpoint if seen_by == "pid" else replace(server.endpoint, pid=None)
    if seen_by == "answers":
        monkeypatch.setattr(healer, "listener", lambda _: None)
    assert wait_until(lambda: len(alive(server, repository, "two")) == 2, 60)
    with capture_logs() as logs, Load(endpoint.grpc_url, "two", rps=40.0) as load:

        def body() -> None:
            assert wait_until(lambda: load.answered > 20)
            kill(alive(server, repository, "two")[:killed])
            _all_is_answered(load, logs)

        _beside_control(endpoint, repository, body).result()
    assert len(alive(server, repository, "two")) == 2


def test_dead_stubs_are_seen_behind_a_queue_that_grows(
    server: TritonServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller comes late: what it asks is refused after all that waits."""
    monkeypatch.setattr(healer, "listener", lambda _: None)
    endpoint = replace(server.endpoint, pid=None)
    assert wait_until(lambda: len(alive(server, repository, "two")) == 2, 60)
    with capture_logs() as logs, Load(endpoint.grpc_url, "two", rps=40.0) as load:
        assert wait_until(lambda: load.answered > 20)
        kill(alive(server, repository, "two"))
        time.sleep(12.0)
        _beside_control(endpoint, repository, lambda: _all_is_answered(load, logs)).result()
    assert len(alive(server, repository, "two")) == 2


def _all_is_answered(load: Load, logs: list[dict[str, object]]) -> None:
    """Once the model is healed."""
    assert wait_until(lambda: healed(logs, "two"), 90)
    healed_s, sent = time.monotonic(), load.sent
    assert wait_until(lambda: load.sent > sent + 40)
    assert not [text for sent_s, text in load.failures if sent_s > healed_s]
