"""`conch repo rollback` on a model that a real Triton serves."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cli.repo import repo
from conch.errors import ApplyRejected
from serving import model_config
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from tests.integration import onnx_models


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """A published model on a real server that `conch` finds: (repository, client)."""
    folder = tmp_path_factory.mktemp("served")
    onnx_models.publish_double(folder / "repository", "double")
    server = start_server(folder / "repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        yield Repository(folder / "repository"), connect(server)


def rollback(repository, number):
    """The command's result."""
    arguments = ["rollback", "double", "--to", str(number), "--repository", str(repository.root)]
    return CliRunner().invoke(repo, arguments)


def test_rollback_is_in_force_at_once(served):
    """On disk and in the server."""
    repository, client = served
    config = repository.read_config("double")
    repository.write_config("double", model_config.with_instances(config, 2), reason="test")
    client.load("double")
    assert model_config.instance_count(client.config("double")) == 2
    result = rollback(repository, 1)
    assert result.exception is None, result.exception
    assert "revision 1 is in force" in result.stderr
    assert model_config.instance_count(client.config("double")) == 1


def test_rollback_that_triton_refuses_is_undone(served):
    """The old text is back on disk, the old model goes on serving."""
    repository, client = served
    good = repository.read_config("double")
    bad = repository.read_config("double")
    bad.default_model_filename = "not_there.onnx"
    number = repository.write_config("double", bad, reason="a mistake").number
    repository.write_config("double", good, reason="mended")
    before = repository.config_text("double")
    result = rollback(repository, number)
    assert isinstance(result.exception, ApplyRejected), result.output
    assert repository.config_text("double") == before
    assert client.index()["double"] == "READY"
