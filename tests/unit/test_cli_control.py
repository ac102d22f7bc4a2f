"""`conch control` without a server: what it says at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cli import control as commands
from control import session
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation, Settings
from control.journal.writer import Journal, OnTrouble
from serving.repository import Repository


@contextmanager
def _looks_at_nothing(
    _: object, repository: Repository, *__: object, **___: object
) -> Iterator[Any]:
    """A loop of no models with the journal of an advisory one."""
    path = session.journal_path(repository)
    with Journal(path, on_trouble=OnTrouble.IN_MEMORY) as journal:
        yield SimpleNamespace(policies={}, left_out={}, journal=journal)


@pytest.mark.parametrize("usable", [True, False])
def test_run_names_its_journal_only_where_it_wrote_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: bool
) -> None:
    """A file that is none is left alone by a loop that changes nothing."""
    path = session.journal_path(Repository(tmp_path))
    if not usable:
        path.parent.mkdir()
        path.write_bytes(b"no journal" * 1000)
    monkeypatch.setattr(session, "session", _looks_at_nothing)
    monkeypatch.setattr(commands.ending, "on_signal", lambda _: None)
    monkeypatch.setattr(commands.life, "run", lambda _, **__: None)
    monkeypatch.setattr(commands, "gc", SimpleNamespace(collect=list, freeze=list))
    options = ["--advisory", "--repository", str(tmp_path), "--url", "127.0.0.1:8001"]
    result = CliRunner().invoke(commands.control, ["run", *options])
    assert result.exception is None, result.exception
    assert (f"Journal: {path}" in result.stderr) is usable
    assert (f"Nothing was written: {path}" in result.stderr) is not usable
    assert ("Next: conch control status" in result.stderr) is usable


@pytest.mark.parametrize("load_rps", [300.0, 100.0], ids=["overload", "carried"])
def test_status_says_what_refusing_late_requests_would_keep(
    tmp_path: Path, load_rps: float
) -> None:
    """Two thirds, where half as much again comes as is carried; nothing where it is carried."""
    now = Settings(instances=1, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)
    need = Need(rate_rps=load_rps, needed=1, hold=1, goal=1, capacities={1: 200.0})
    seen = Observation(at_s=1.0, tick_id="t", counters=None, statistics=None, applied=now)
    decided = Decision(
        tick_id="t", at_s=1.0, reason=Reason.AT_LIMIT, applied=now, desired=now, need=need
    )
    with Journal(session.journal_path(Repository(tmp_path))) as journal:
        journal.record("m", seen, decided, mode="active")
    said = "m: more comes than is carried, and all wait in one queue: `late: refuse` would keep"
    told = CliRunner().invoke(commands.control, ["status", "--repository", str(tmp_path)])
    assert (f"{said} about 67 % in time" in told.stderr) is (load_rps > 200.0), told.output
    told = CliRunner().invoke(commands.control, ["status", "--repository", str(tmp_path), "--json"])
    kept = json.loads(told.stdout)["models"][0]["kept_by_refusing"]
    assert kept == (pytest.approx(2 / 3) if load_rps > 200.0 else None)
