"""What one instance of each version takes: by its files, and measured while it is alone."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from control.watch import machine
from control.watch.machine import COPIES_OF_FILES, Machine
from serving.model_config import parse
from serving.repository import Repository

MIB = 2**20
FILES = {1: 1000, 2: 3000}
CONFIG = (
    'name: "m" instance_group {{ name: "m_0" count: 1 kind: {kind} }} '
    "version_policy {{ specific {{ versions: {versions} }} }}"
)


class _Server:
    """A machine whose clock and processes are told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for version, size in FILES.items():
            folder = root / "m" / str(version)
            folder.mkdir(parents=True)
            (folder / "weights.bin").write_bytes(b"0" * size)
        self.now_s, self.resident = 1000.0, 5 * MIB
        self.repository = Repository(root)
        self.machine = Machine(pid=os.getpid(), clock=lambda: self.now_s)
        found = mock.Mock(side_effect=lambda _: {"m_0_0": {1: self.resident}})
        monkeypatch.setattr(machine, "stub_processes", found)

    def sizes(self, versions: str, *, kind: str = "KIND_CPU", after_s: float = 0.0) -> dict:
        """By a look that long after the last one."""
        self.now_s += after_s
        config = parse(CONFIG.format(versions=versions, kind=kind))
        return self.machine.version_bytes("m", config, self.repository, [1, 2])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Server:
    """With model m, of versions 1 and 2."""
    return _Server(tmp_path, monkeypatch)


BY_FILES = {version: COPIES_OF_FILES * size for version, size in FILES.items()}


def test_a_version_that_is_alone_for_a_while_is_measured(server: _Server) -> None:
    """The other by its files; and it stays known when it is gone."""
    assert server.sizes("[1]") == BY_FILES
    assert server.sizes("[1]", after_s=31.0) == {**BY_FILES, 1: 5 * MIB}
    server.resident = 9 * MIB
    assert server.sizes("[2]", after_s=1.0) == {**BY_FILES, 1: 5 * MIB}
    assert server.sizes("[2]", after_s=31.0) == {1: 5 * MIB, 2: 9 * MIB}


def test_processes_from_before_a_change_are_not_of_the_new_version(server: _Server) -> None:
    """They were looked up just before, or the old ones are still there."""
    server.sizes("[1]")
    assert server.sizes("[2]", after_s=29.0) == BY_FILES
    assert server.sizes("[2]", after_s=2.0) == BY_FILES  # looked up 2 s after the change


def test_of_two_versions_beside_each_other_nothing_is_measured(server: _Server) -> None:
    """Processes do not tell of which they are."""
    server.sizes("[1, 2]")
    assert server.sizes("[1, 2]", after_s=60.0) == BY_FILES


def test_on_a_gpu_the_processes_do_not_tell(server: _Server) -> None:
    """Their memory is the host's."""
    server.sizes("[1]", kind="KIND_GPU")
    assert server.sizes("[1]", kind="KIND_GPU", after_s=60.0) == BY_FILES


def test_a_single_version_has_nothing_to_choose(server: _Server) -> None:
    """Nor a server whose files nobody can see."""
    config = parse(CONFIG.format(versions="[1]", kind="KIND_CPU"))
    assert server.machine.version_bytes("m", config, server.repository, [1]) == {}
    assert server.machine.version_bytes("m", config, None, [1, 2]) == {}
