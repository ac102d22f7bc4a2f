"""A change whose process dies by kill -9: what is left on disk and in force, at every step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.action import Outcome
from serving import model_config, probe
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from tests.integration import changeable, scripted
from tests.integration.changeable import X


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint) of one server whose model refuses batches of 16."""
    root = tmp_path_factory.mktemp("repository")
    scripted.publish(root, "picky", refuse_batch=16, broken_batch=4)
    return changeable.serve(root, start_server, connect, settled=("picky",))


APPLY = textwrap.dedent("""
    import sys
    from dataclasses import replace
    from pathlib import Path
    from control.act.actuator import Actuator
    from control.act.knobs import settings_of
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
