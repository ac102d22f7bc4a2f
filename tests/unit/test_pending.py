"""The record of a change that is not proven: what it brings back, and what it leaves alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from serving import pending
from serving.pending import Pending
from serving.repository import Repository
from tests.unproven import recorded

OLD = 'name: "m"\nmax_batch_size: 4\n# mine\n'
NEW = 'name: "m"\nmax_batch_size: 8\n'


@pytest.fixture
def changed(tmp_path: Path) -> tuple[Repository, Pending]:
    """A repository after a change 4 → 8 of its model, with the record of it."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(OLD)
    repository = Repository(tmp_path)
    revision = repository.write_text("m", NEW, reason="REBATCH", tick_id="t1")
    (repository.state / pending.EPOCH).write_text("7")
    return repository, recorded(repository, "m", revision)


def test_a_record_is_read_back_and_removed(changed: tuple[Repository, Pending]) -> None:
    """What was written is what is read, by name and among all."""
    repository, record = changed
    assert pending.read(repository, "m") == record
    assert pending.every(repository) == [record]
    pending.settle(repository, "m")
    pending.settle(repository, "m")
    assert pending.read(repository, "m") is None
    assert pending.every(repository) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model": "m"}', "\x00" * 70000, "[" * 60000], ids=range(6)
)
def test_a_damaged_record_is_none(changed: tuple[Repository, Pending], content: str) -> None:
    """It says nothing, so nothing follows from it."""
    repository, record = changed
    (repository.state / "pending" / "m.json").write_text(content)
    (repository.state / "pending" / "$(x).json").write_text("{}")
    assert pending.read(repository, "m") is None
    assert pending.every(repository) == []
    assert not pending.revert(repository, record, why="died")


def test_a_pipe_or_a_device_is_no_record_and_no_epoch(changed: tuple[Repository, Pending]) -> None:
    """A read of it would never end, and `conch serve` reads both before it starts Triton."""
    repository, _ = changed
    record, epoch = repository.state / "pending" / "m.json", repository.state / pending.EPOCH
    for path in (record, epoch):
        path.unlink()
        os.mkfifo(path)
    assert pending.read(repository, "m") is None
    assert pending.epoch_of(repository) == ""
    for path in (record, epoch):
        path.unlink()
        path.symlink_to("/dev/zero")
    assert pending.read(repository, "m") is None
    assert pending.epoch_of(repository) == ""


def test_revert_brings_the_bytes_before_back_once(changed: tuple[Repository, Pending]) -> None:
    """Comments too; the record says why, and a second one does nothing."""
    repository, record = changed
    assert pending.revert(repository, record, why="the server died")
    assert repository.config_text("m") == OLD
    marked = pending.read(repository, "m")
    assert marked == replace(record, reverted="the server died")
    repository.write_text("m", NEW, reason="by hand")
    assert not pending.revert(repository, marked, why="again")
    assert not pending.revert(repository, record, why="again")
    assert repository.config_text("m") == NEW


def test_revert_leaves_what_has_long_been_served(changed: tuple[Repository, Pending]) -> None:
    """Only where it is known to have been loaded; an earlier version's record does not say."""
    repository, record = changed
    old = replace(record, at="2026-01-01T00:00:00+00:00")
    pending.write(repository, old)
    pending.loaded(repository, "m")
    assert not pending.revert(repository, replace(old, loaded=True), why="died")
    assert pending.every(repository) == []
    pending.write(repository, old)
    path = repository.state / "pending" / "m.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in told.items() if k not in ("loaded", "answered")}))
    assert pending.every(repository) == [replace(old, loaded=True)]
    pending.write(repository, old)
    assert pending.revert(repository, old, why="died")
    assert repository.config_text("m") == OLD


def test_only_this_very_record_is_settled(changed: tuple[Repository, Pending]) -> None:
    """One of a change that was begun since stays."""
    repository, record = changed
    pending.write(repository, replace(record, tick_id="t2"))
    assert not pending.settle_this(repository, record)
    assert pending.settle_this(repository, replace(record, tick_id="t2"))
    assert pending.every(repository) == []


def test_revert_leaves_what_another_wrote(changed: tuple[Repository, Pending]) -> None:
    """A person's edit since, another controller, another record: theirs stays."""
    repository, record = changed
    repository.config_path("m").write_text(NEW + "# edited\n")
    assert not pending.revert(repository, record, why="died")
    repository.config_path("m").write_text(NEW)
    (repository.state / pending.EPOCH).write_text("8")
    assert not pending.revert(repository, record, why="died")
    (repository.state / pending.EPOCH).write_text("7")
    pending.write(repository, replace(record, tick_id="t2"))
    assert not pending.revert(repository, record, why="died")
    assert repository.config_text("m") == NEW
    assert pending.revert(repository, replace(record, tick_id="t2"), why="died")
