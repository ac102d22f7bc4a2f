"""What docker-compose.yml tells Triton, on the real one that is here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import yaml

from conch.errors import TritonUnavailable
from control.watch.observe import Observer
from control.watch.sources import ScrapedCounters
from serving.client import TritonClient
from serving.probe import probe
from serving.repository import STATE_DIR, Repository
from serving.runtime import command, find
from serving.runtime.supervisor import TritonServer
from tests.integration.onnx_models import publish_double

ROOT = Path(__file__).parents[2]


def flags() -> dict[str, str]:
    """Triton's flags in the compose file, by name without dashes."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    arguments = compose["x-triton"]["command"][1:]
    return {a.partition("=")[0].removeprefix("--"): a.partition("=")[2] for a in arguments}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A Triton whose every admin API needs the key, on a repository with state of ours in it."""
    root = tmp_path_factory.mktemp("repository")
    publish_double(root, "double")
    (root / STATE_DIR / "locks").mkdir(parents=True)
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    found = TritonServer(root, models=(), name="compose-test", log_path=log, exit_timeout_s=2)
    names = flags()["http-restricted-api"].partition(":")[0]
    star = {"load-model": flags()["load-model"]}  # `conch serve` names them instead
    found._options = replace(found._options, restricted=tuple(names.split(",")), extra=star)
    with found:
        yield found


def test_compose_flags_are_known_to_triton():
    """2.51 knows each of them; newer releases have added flags, not renamed these."""
    assert set(flags()) <= command.known_flags(find.find().help_text())


def test_star_loads_every_model_beside_the_hidden_state(server: TritonServer):
    """Triton cannot load .conch; with --exit-on-error=false it is ready all the same."""
    assert flags()["load-model"] == "*"
    assert flags()["exit-on-error"] == "false"
    log = server.log_path.read_text(encoding="utf-8")
    assert re.search(r"--load-model=\*", log)
    assert f"Poll failed for model directory '{STATE_DIR}'" in log
    assert requests.get(f"{server.endpoint.http_url}/v2/health/ready", timeout=5).status_code == 200
    assert [model.name for model in server.models if model.ready] == ["double"]


def test_control_works_with_every_admin_api_behind_the_key(
    server: TritonServer, connect: Callable[[TritonServer], TritonClient]
):
    """Look, load and probe: all that the loop needs."""
    client = connect(server)
    config = Repository(server.endpoint.repository or Path()).read_config("double")
    client.load("double")
    probe(client, config)
    observer = Observer(client, ScrapedCounters(server.endpoint.metrics_url))
    seen = observer.look("double")
    assert seen.counters is not None
    assert seen.statistics is not None
    assert seen.applied is not None


def test_wrong_key_is_told_apart_from_a_server_that_is_down(server: TritonServer):
    """The hint names the key."""
    with (
        TritonClient(server.endpoint.grpc_url, admin_key="wrong") as client,
        pytest.raises(TritonUnavailable) as caught,
    ):
        client.index()
    assert "CONCH_ADMIN_KEY" in caught.value.hint
