"""Python stubs that die under load: found and healed while nothing else happens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving import heal, model_config
from serving.client import TritonClient
from serving.heal import Way
from serving.repository import Repository
from serving.runtime import stub_watch, stubs
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import StartServer, wait_until
from tests.integration.dying_stubs import alive, healed, kill
from tests.integration.load import ONES, Load
from tests.integration.onnx_models import publish_double
from tests.integration.processes import runs

COUNTS = {"one": 1, "two": 2, "other": 1, "kept": 2, "ahead": 1, "again": 3}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Models of one and two instances, and one of our ONNX backend."""
    root = tmp_path_factory.mktemp("repository")
    for name, count in COUNTS.items():
        scripted.publish(root, name, batch_s=0.01)
        scripted.set_count(root, name, count)
    publish_double(root, "double")
    return Repository(root)


@pytest.fixture(scope="module")
def server(start_server: StartServer, repository: Repository) -> TritonServer:
    """A supervised Triton."""
    return start_server(repository.root)


def test_stubs_are_found_by_model_version_and_instance(
    server: TritonServer, repository: Repository
) -> None:
    """From the command lines of a real Triton, for both Python-based backends."""
    seen = stubs.look(server.endpoint.pid or 0, repository.root, {}).values()
    assert {(s.model, s.version, s.instance) for s in seen} == {
        ("one", 1, "one_0_0"),
        ("two", 1, "two_0_0"),
        ("two", 1, "two_0_1"),
        ("other", 1, "other_0_0"),
        ("ahead", 1, "ahead_0_0"),
        ("kept", 1, "kept_0_0"),
        ("kept", 1, "kept_0_1"),
        ("again", 1, "again_0_0"),
        ("again", 1, "again_0_1"),
        ("again", 1, "again_0_2"),
        ("double", 1, "double_0_0"),
    }
    assert all(s.alive and s.resident_bytes > 2**20 for s in seen)


@pytest.mark.parametrize(("model", "killed"), [("one", 1), ("two", 1), ("two", 2)])
def test_dead_stubs_are_healed_under_load(
    server: TritonServer, repository: Repository, client: TritonClient, model: str, killed: int
) -> None:
    """All instances are back; at most what the dead could take failed, and nothing after it."""
    count = COUNTS[model]
    assert wait_until(lambda: len(alive(server, repository, model)) == count)
    with Load(server.endpoint.grpc_url, model) as load, capture_logs() as logs:
        assert wait_until(lambda: load.answered > 20)
        assert not load.failures
        kill(alive(server, repository, model)[:killed])
        assert wait_until(lambda: healed(logs, model), 60)
        healed_s, sent = time.monotonic(), load.sent
        assert wait_until(lambda: load.sent > sent + 80)
    assert load.answered == load.sent
    assert not [text for sent_s, text in load.failures if sent_s > healed_s]
    assert not [text for _, text in load.failures if not heal.is_dead_stub(text)]
    (found,) = [e for e in logs if e["event"] == "model.stub_dead"]
    assert (found["dead"], found["of"]) == (killed, count)
    (done,) = [e for e in logs if e["event"] == "model.healed"]
    assert (done["way"], done["instances"]) == (Way.SECOND_COPY.value, count)
    assert len(alive(server, repository, model)) == count
    if killed < count:  # it was the living one's to answer meanwhile
        assert len(load.failures) <= load.sent // 4
    client.infer("other", {"x": ONES})


def test_the_onnx_backend_of_ours_is_healed_too(
    server: TritonServer, repository: Repository
) -> None:
    """Its instances are stubs as well."""
    with capture_logs() as logs:
        kill(alive(server, repository, "double"))
        assert wait_until(lambda: healed(logs, "double"), 60)
    assert len(alive(server, repository, "double")) == 1


@pytest.mark.parametrize("below", ["1", "1/model.py"])
def test_a_model_with_a_time_in_the_future_is_healed_too(
    server: TritonServer, repository: Repository, client: TritonClient, below: str
) -> None:
    """Triton takes the newest time of the version's folder and of what is inside.

    So it does not see a change of the config that is older, either: the model is of this test only.
    """
    future_s = time.time() + 1e6
    os.utime(repository.root / "ahead" / below, (future_s, future_s))
    client.load("ahead", deadline_s=60)
    with capture_logs() as logs:
        kill(alive(server, repository, "ahead"))
        assert wait_until(lambda: healed(logs, "ahead"), 60)
    (done,) = [e for e in logs if e["event"] == "model.healed"]
    assert (done["way"], done["instances"]) == (Way.SECOND_COPY.value, 1)


def test_a_change_in_place_works_after_a_stub_died(
    server: TritonServer, repository: Repository, client: TritonClient
) -> None:
    """With the dead one healed, a count up and down is done as ever."""
    with capture_logs() as logs:
        kill(alive(server, repository, "two")[:1])
        assert wait_until(lambda: healed(logs, "two"), 60)
    for count in (3, 1, 2):
        before = set(alive(server, repository, "two"))
        with repository.lock("two"):
            scripted.set_count(repository.root, "two", count)
            client.load("two", deadline_s=60)
        assert model_config.instance_count(client.config("two")) == count
        client.infer("two", {"x": ONES})
        after = set(alive(server, repository, "two"))
        assert before < after if count == 3 else before & after  # in place, no second copy


def test_the_older_of_two_instances_of_one_name_is_healed_too(
    server: TritonServer, repository: Repository, client: TritonClient
) -> None:
    """Triton 2.51 names a new one by its place, whatever those are called that it keeps."""

    def own() -> list[stubs.Stub]:
        seen = stubs.look(server.endpoint.pid or 0, repository.root, {}).values()
        return sorted((s for s in seen if s.model == "again"), key=lambda stub: stub.started_s)

    def older() -> list[int]:
        last = {stub.instance: stub.pid for stub in own()}
        return [stub.pid for stub in own() if last[stub.instance] != stub.pid]

    def settled() -> bool:
        past = server._stubs._models.values()
        return all(one.suspected_s is None and not one.busy for one in past)

    with capture_logs() as logs:
        for count in 4 * (2, 3):  # which one goes is not always the same
            with repository.lock("again"):
                scripted.set_count(repository.root, "again", count)
                client.load("again", deadline_s=60)
            assert wait_until(lambda wanted=count: len(own()) == wanted)
            if count == 3 and older():
                break
        assert older(), own()
        time.sleep(1.0)  # two looks
        assert wait_until(settled, 30)
        assert not [e for e in logs if e["event"] == "model.stub_dead"]
        kill(older()[:1])
        assert wait_until(lambda: healed(logs, "again"), 60)
    (found,) = [e for e in logs if e["event"] == "model.stub_dead"]
    assert (found["dead"], found["of"]) == (1, 3)


def test_what_triton_ends_itself_is_no_dead_stub(
    server: TritonServer, repository: Repository, client: TritonClient
) -> None:
    """A count down, a reload, an unload: nothing is healed, and the model stays unloaded."""
    with capture_logs() as logs:
        with repository.lock("other"):
            scripted.set_count(repository.root, "other", 3)
            client.load("other", deadline_s=60)
        assert wait_until(lambda: len(alive(server, repository, "other")) == 3)
        scripted.set_count(repository.root, "other", 1)
        client.load("other", deadline_s=60)
        os.utime(repository.root / "other" / "1")
        client.load("other", deadline_s=60)
        client.unload("other")
        past = server._stubs  # the watch has examined it, and found nothing to do
        assert wait_until(lambda: not alive(server, repository, "other"))
        assert wait_until(
            lambda: all(p.suspected_s is None and not p.busy for p in past._models.values()), 30
        )
        assert client.index()["other"] == "UNAVAILABLE"
        client.load("other", deadline_s=60)
    assert not [e for e in logs if e["event"] in ("model.stub_dead", "model.heal_failed")]


def test_what_a_replaced_copy_leaves_is_ended(
    server: TritonServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton keeps the living instances of a copy that failed a request, for ever."""
    monkeypatch.setattr(stub_watch, "LEFT_S", 3.0)
    monkeypatch.setattr(stub_watch, "_IDLE_LOOKS_S", 1.0)
    before = alive(server, repository, "kept")
    with capture_logs() as logs, Load(server.endpoint.grpc_url, "kept") as load:
        kill(before[:1])
        assert wait_until(lambda: bool(load.failures))
        assert wait_until(lambda: healed(logs, "kept"), 60)
    assert wait_until(lambda: not runs(before[1]), 60)
    assert len(alive(server, repository, "kept")) == 2


def test_without_room_for_a_second_copy_it_is_unloaded_once(
    server: TritonServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said in the log, and it serves again."""
    monkeypatch.setattr(stub_watch, "_has_room", lambda *_: False)
    with capture_logs() as logs:
        kill(alive(server, repository, "one"))
        assert wait_until(lambda: healed(logs, "one"), 60)
    assert [e["way"] for e in logs if e["event"] == "model.healed"] == [Way.RELOADED.value]
    (said,) = [e for e in logs if e["event"] == "model.unloaded_to_heal"]
    assert said["reason"] == "no memory for a second copy"


def test_dead_stubs_are_healed_by_answers_alone(
    repository: Repository, connect: Callable[[TritonServer], TritonClient], tmp_path: Path
) -> None:
    """As for a server elsewhere; a model that fails for another reason is left alone."""
    scripted.publish(tmp_path, "two", batch_s=0.01)
    scripted.set_count(tmp_path, "two", 2)
    scripted.publish(tmp_path, "broken", broken_batch=8)
    there = Repository(tmp_path)
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with TritonServer(tmp_path, restart=False, log_path=log, exit_timeout_s=0) as server:
        client = connect(server)
        assert heal.heal_by_answers(client, there, "two") is None
        assert heal.heal_by_answers(client, there, "broken") is None
        for killed in (1, 2):
            kill(alive(server, there, "two")[:killed])
            assert heal.heal_by_answers(client, there, "two") is Way.SECOND_COPY
            assert wait_until(lambda: len(alive(server, there, "two")) == 2)


def test_an_edit_that_triton_refuses_never_ends_what_still_answers(
    connect: Callable[[TritonServer], TritonClient], tmp_path: Path
) -> None:
    """One of two is dead, and the file on disk does not load: no unload."""
    scripted.publish(tmp_path, "two", batch_s=0.01, refuse_batch=5)
    scripted.set_count(tmp_path, "two", 2)
    there = Repository(tmp_path)
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with TritonServer(tmp_path, restart=False, log_path=log, exit_timeout_s=0) as server:
        client = connect(server)
        path = there.config_path("two")
        path.write_text(path.read_text().replace("max_batch_size: 8", "max_batch_size: 5"))
        kill(alive(server, there, "two")[:1])
        with pytest.raises(heal.ApplyRejected):
            heal.heal_by_answers(client, there, "two")
        assert client.index()["two"] == "READY"
        assert wait_until(lambda: answers(client, "two"))


def answers(client: TritonClient, model: str) -> bool:
    """Whether this one inference is answered."""
    with contextlib.suppress(heal.InferenceFailed):
        return bool(client.infer(model, {"x": ONES}))
    return False
