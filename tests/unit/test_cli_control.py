"""`conch control` without a server: what it says at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cli import control as commands
from control import session
from control.journal.writer import Journal, OnTrouble
from serving.repository import Repository


@contextmanager
def _looks_at_nothing(
    _: object, repository: Repository, *__: object, **___: object
) -> Iterator[Any]:
    """A loop of no models with the journal of an advisory one."""
    path = session.journal_path(repository)
    with Journal(path, on_trouble=OnTrouble.IN_MEMORY) as journal:
        yield SimpleNamespace(policies={}, left_out={}, journal=journal, run=lambda **_: None)


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
    monkeypatch.setattr(commands, "gc", SimpleNamespace(collect=list, freeze=list))
    options = ["--advisory", "--repository", str(tmp_path), "--url", "127.0.0.1:8001"]
    result = CliRunner().invoke(commands.control, ["run", *options])
    assert result.exception is None, result.exception
    assert (f"Journal: {path}" in result.stderr) is usable
    assert (f"Nothing was written: {path}" in result.stderr) is not usable
    assert ("Next: conch control status" in result.stderr) is usable
