"""The freeze switch: the file, the commands, and that a loop obeys; and who may write at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from contextlib import suppress

import pytest
from click.testing import CliRunner

from cli.control import control
from conch.errors import ConfigError, RepositoryError
from control import freeze
from control.freeze import Freezes
from control.lease import Fenced, sole_writer
from serving.repository import Repository


@pytest.fixture
def repository(tmp_path) -> Repository:
    """One with a model."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"\nbackend: "python"\n')
    return Repository(tmp_path)


def _invoke(repository: Repository, *arguments: str):
    return CliRunner().invoke(control, [*arguments, "--repository", str(repository.root)])


def test_nothing_is_frozen_without_a_file(repository) -> None:
    """As it mostly is."""
    assert freeze.read(repository) == Freezes()
    assert freeze.read(repository).of("m", now_s=1.0) is None


def test_a_freeze_ends_by_itself_or_is_ended(repository) -> None:
    """Of one model, or of all; the longer one counts."""
    freeze.pause(repository, "m", for_s=10.0, now_s=100.0)
    freeze.pause(repository, None, for_s=5.0, now_s=100.0)
    frozen = freeze.read(repository)
    assert frozen.of("m", now_s=109.9) == 110.0
    assert frozen.of("other", now_s=104.9) == 105.0
    assert frozen.of("other", now_s=105.0) is None
    assert freeze.resume(repository, "m", now_s=101.0)
    assert freeze.read(repository).of("m", now_s=101.0) == 105.0
    assert freeze.resume(repository, None, now_s=101.0)
    assert freeze.read(repository).of("m", now_s=101.0) is None
    assert not freeze.resume(repository, None, now_s=101.0)


def test_a_freeze_without_an_end_stays(repository) -> None:
    """JSON knows no infinity; the file says null."""
    assert freeze.pause(repository, "m", for_s=None, now_s=100.0) == math.inf
    text = freeze.path_of(repository).read_text()
    assert json.loads(text)["until_s"] == {"m": None}
    assert freeze.read(repository).of("m", now_s=1e12) == math.inf


@pytest.mark.parametrize("text", ["", "{", "[]", '{"until_s": 3}', '{"until_s": {"m": "soon"}}'])
def test_a_file_that_cannot_be_understood_freezes_everything(repository, text: str) -> None:
    """Somebody wanted something; doing nothing is the safe reading."""
    repository.state.mkdir(exist_ok=True)
    freeze.path_of(repository).write_text(text)
    assert freeze.read(repository).of("m", now_s=1.0) == math.inf
    freeze.resume(repository, None, now_s=1.0)
    assert freeze.read(repository).of("m", now_s=1.0) is None


def test_a_name_that_is_no_models_is_refused(repository) -> None:
    """It would freeze nothing, in silence."""
    with pytest.raises(ConfigError):
        freeze.pause(repository, "../m", for_s=None, now_s=1.0)


def test_the_commands_say_what_they_did(repository) -> None:
    """Pause, and resume with the next thing to do."""
    paused = _invoke(repository, "pause", "m", "--for", "10m")
    assert paused.exception is None, paused.exception
    assert paused.stdout.startswith("Frozen: m, until 20")
    assert "conch control resume m" in paused.stderr
    assert "Resumed: m." in _invoke(repository, "resume", "m").stdout
    assert "Not frozen: every model." in _invoke(repository, "resume").stdout


def test_the_commands_refuse_what_would_do_nothing(repository) -> None:
    """A model that is not there, no time at all, one of many that are all frozen."""
    assert isinstance(_invoke(repository, "pause", "x").exception, ConfigError)
    assert _invoke(repository, "pause", "m", "--for", "0s").exit_code == 2
    _invoke(repository, "pause")
    refused = _invoke(repository, "resume", "m").exception
    assert isinstance(refused, ConfigError)
    assert "every model is frozen" in refused.message


def test_only_the_newest_writer_may_write(repository) -> None:
    """Somebody deletes the lock file of a controller that sleeps, and another takes over."""
    with sole_writer(repository) as first:
        first.check()
        with pytest.raises(RepositoryError, match="another control loop"), sole_writer(repository):
            pass
        first.check()
        (repository.state / "control.lock").unlink()
        with sole_writer(repository) as second:
            second.check()
            assert second.epoch == first.epoch + 1
            with pytest.raises(Fenced, match="another took over with 2"):
                first.check()
        with pytest.raises(Fenced):
            first.check()


def test_an_epoch_that_is_broken_stops_the_writer_and_not_the_next_one(repository) -> None:
    """The next one begins above every epoch that may have been."""
    path = repository.state / "control.epoch"
    with sole_writer(repository) as first:
        path.write_text("?")
        with pytest.raises(Fenced, match="cannot be read"):
            first.check()
    with sole_writer(repository) as second:
        assert second.epoch > first.epoch + 1_000_000
        second.check()


def test_one_that_waits_takes_over_when_the_lock_is_free(repository) -> None:
    """And one that is told to stop does not wait for ever."""
    stop, stopped = threading.Event(), threading.Event()
    took = []

    def wait() -> None:
        with sole_writer(repository, wait=True) as lease:
            took.append(lease.epoch)

    with sole_writer(repository) as first:
        waits = threading.Thread(target=wait)
        waits.start()
        stop.set()
        with pytest.raises(RepositoryError), sole_writer(repository, wait=True, stop=stop):
            stopped.set()
        assert took == []
    waits.join(timeout=10)
    assert took == [first.epoch + 1]
    assert not stopped.is_set()


def test_the_first_writer_is_fenced_after_its_files_were_lost(repository) -> None:
    """Somebody removes ``.conch`` while it sleeps: the next epoch has the same number."""
    with sole_writer(repository) as first:
        shutil.rmtree(repository.state)
        with sole_writer(repository) as second:
            assert second.epoch == first.epoch == 1
            second.check()
            with pytest.raises(Fenced):
                first.check()
            first.path.unlink()
            for lease in (first, second):
                with pytest.raises(Fenced, match="cannot be read"):
                    lease.check()


def test_of_many_that_start_at_once_one_may_write(repository) -> None:
    """The lock file is removed in a loop meanwhile, so that several get in."""
    lock = repository.state / "control.lock"
    done, everybody_in, leases = threading.Event(), threading.Barrier(4), []

    def remove() -> None:
        while not done.is_set():
            lock.unlink(missing_ok=True)

    def start() -> None:
        with sole_writer(repository, wait=True) as lease:
            everybody_in.wait(timeout=60)
            leases.append(lease)
            everybody_in.wait(timeout=60)

    threads = [threading.Thread(target=start) for _ in range(4)]
    remover = threading.Thread(target=remove)
    for thread in (remover, *threads):
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    done.set()
    remover.join(timeout=60)
    allowed = []
    for lease in leases:
        with suppress(Fenced):
            lease.check()
            allowed.append(lease)
    assert (len(leases), len(allowed)) == (4, 1)


def test_the_epoch_of_an_earlier_version_is_read_and_counted_on(repository) -> None:
    """It is a number alone."""
    repository.state.mkdir()
    (repository.state / "control.epoch").write_text("41")
    with sole_writer(repository) as lease:
        assert lease.epoch == 42
        (repository.state / "control.epoch").write_text("42")  # an earlier version took over
        with pytest.raises(Fenced):
            lease.check()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"9" * 5000, b"-3", b"1 x", b"1e9", b"1 ab cd", b"\x00" * 10_000_000]
)
def test_an_epoch_file_with_anything_in_it(repository, content: bytes) -> None:
    """The next writer starts, and one that held it is fenced."""
    path = repository.state / "control.epoch"
    with sole_writer(repository) as first:
        path.write_bytes(content)
        with pytest.raises(Fenced):
            first.check()
    with sole_writer(repository) as second:
        second.check()


@pytest.mark.parametrize(
    "text",
    [
        '{"until_s": {"m": NaN}}',
        '{"until_s": {"m": Infinity}}',
        '{"until_s": {"m": -Infinity}}',
        '{"until_s": {"m": 1e999}}',
        '{"until_s": {"m": true}}',
        '{"until_s": {"m": "12"}}',
        '{"until_s": {"m": ' + "9" * 400 + "}}",
        '{"until_s": {"m": ' + "9" * 5000 + "}}",
        '{"until_s": ["m"]}',
        '{"until_s": null}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "\ufeff{}",
        "x" * (2**20 + 1),
    ],
)
def test_a_freeze_that_is_no_time_freezes_everything(repository, text: str) -> None:
    """And never ends the controller."""
    repository.state.mkdir(exist_ok=True)
    freeze.path_of(repository).write_text(text)
    assert freeze.read(repository).of("any", now_s=1.0) == math.inf


def test_a_freeze_that_is_a_pipe_freezes_everything(repository) -> None:
    """A read of it would not end."""
    repository.state.mkdir(exist_ok=True)
    os.mkfifo(freeze.path_of(repository))
    assert freeze.read(repository).of("any", now_s=1.0) == math.inf
