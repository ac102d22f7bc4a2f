"""What a start of Triton takes back of the changes that have not proved themselves."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving import pending
from serving.repository import Repository
from serving.runtime import endpoint
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.unproven import recorded

OLD, NEW = "max_batch_size: 4\n", "max_batch_size: 8\n"


@pytest.mark.parametrize(
    ("served", "first", "found"),
    [("repository", True, NEW), ("other", True, OLD), ("repository", False, OLD)],
)
def test_a_first_start_beside_another_server_takes_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, first: bool, found: str
) -> None:
    """That one lives with the change; one of another repository says nothing of it."""
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    for name in ("repository", "other"):
        (tmp_path / name / "m").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "config.pbtxt").write_text(OLD)
    repository = Repository(tmp_path / "repository")
    revision = repository.write_text("m", NEW, reason="REBATCH", tick_id="t1")
    (repository.state / pending.EPOCH).write_text("7")
    recorded(repository, "m", revision)
    endpoint.save(
        Endpoint(
            name="first",
            host="127.0.0.1",
            http_port=1,
            grpc_port=2,
            metrics_port=3,
            pid=os.getpid(),
            repository=tmp_path / served,
        )
    )
    starting = SimpleNamespace(
        _options=SimpleNamespace(repository=repository.root), _watcher=None if first else object()
    )
    TritonServer._take_back(cast(Any, starting))
    assert repository.config_text("m") == found
