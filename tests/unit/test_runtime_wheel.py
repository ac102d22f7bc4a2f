"""Unpacking a pinned wheel, and finding what was changed in it since."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from conch.errors import TritonUnavailable
from serving.runtime import recorded, wheel
from tests.unit.made_wheel import FILES, INFO, PINNED, archive_bytes, own_cache, put_archive, record

__all__ = ["own_cache"]


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is away."""

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", pip)


def test_unpacked_uses_a_finished_download_and_keeps_the_executable_bit(tmp_path: Path) -> None:
    """An unpacking that was interrupted does not fetch again; the download goes afterwards."""
    folder = tmp_path / "tool"
    put_archive(folder)
    assert wheel.unpacked(PINNED, folder) == folder
    assert os.access(folder / "tool" / "bin" / "run", os.X_OK)
    assert not os.access(folder / "tool" / "data.txt", os.X_OK)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tool", "tool.lock", "tool.tree.json"]


def test_a_leftover_download_that_is_not_the_pinned_one_is_never_unpacked(
    tmp_path: Path, no_pip: None
) -> None:
    """Planted, or cut short: it is fetched anew, and without a network nothing is there."""
    folder = tmp_path / "tool"
    for data in (archive_bytes({**FILES, "tool/bin/run": "evil"}), archive_bytes(FILES)[:-30]):
        put_archive(folder, data)
        with pytest.raises(TritonUnavailable, match="no network"):
            wheel.unpacked(PINNED, folder)
        assert not folder.exists()


def test_unpacked_leaves_nothing_when_the_archive_is_broken(tmp_path: Path) -> None:
    """No half-made folder, and the message names what to remove."""
    folder = tmp_path / "tool"
    data = archive_bytes(FILES)[:-30]
    put_archive(folder, data)
    pinned = replace(PINNED, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(TritonUnavailable, match="cannot be unpacked") as raised:
        wheel.unpacked(pinned, folder)
    assert "tool.download" in raised.value.hint
    assert not folder.exists()


def forge(path: Path, text: str) -> None:
    """Another content of the same length and time."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "size": lambda f: (f / "tool" / "data.txt").write_text("data and more"),
    "content": lambda f: (f / "tool" / "data.txt").write_text("evil"),
    "added": lambda f: (f / "sitecustomize.py").write_text("evil"),
    "link": lambda f: [(f / "tool" / "data.txt").unlink(), (f / "tool" / "data.txt").symlink_to(f)],
    "missing": lambda f: (f / "tool" / "data.txt").unlink(),
    "record": lambda f: (f / INFO).write_text(record({**FILES, "tool/data.txt": "evil"})),
    "bytecode": lambda f: next((f / "tool" / "__pycache__").iterdir()).write_bytes(b"evil"),
    "tree": lambda f: recorded.tree_file(f).write_text("{}"),
    "no json": lambda f: recorded.tree_file(f).write_text("x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_unpacked_wheel_that_was_changed_is_not_run(
    tmp_path: Path, change: str, no_pip: None
) -> None:
    """Size, content, a file more or less, bytecode; doctor unpacks it anew."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    CHANGES[change](folder)
    with pytest.raises(TritonUnavailable, match="so it is not run") as raised:
        wheel.unpacked(PINNED, folder)
    assert "doctor --fix" in raised.value.hint
    put_archive(folder)
    assert wheel.mend(PINNED, folder) == folder
    assert (folder / "tool" / "data.txt").read_text() == "data"
    assert wheel.fault(PINNED, folder) == ""


def test_forged_size_and_time_are_found_by_content(tmp_path: Path) -> None:
    """That is doctor's: a start does not read the files."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    forge(folder / "tool" / "data.txt", "evil")
    assert wheel.unpacked(PINNED, folder) == folder
    assert "data.txt was changed" in wheel.fault(PINNED, folder)


def test_bytecode_that_nobody_can_vouch_for_is_removed(tmp_path: Path) -> None:
    """Python would run it unread; without it, it does."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    planted = folder / "tool" / "__pycache__" / "other.cpython-399.pyc"
    planted.write_bytes(b"evil")
    assert wheel.unpacked(PINNED, folder) == folder
    assert not planted.exists()


def test_what_an_older_conch_unpacked_is_checked_once_by_content(tmp_path: Path) -> None:
    """It kept no times; what differs is not run."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    recorded.tree_file(folder).unlink()
    assert wheel.unpacked(PINNED, folder) == folder
    recorded.tree_file(folder).unlink()
    forge(folder / "tool" / "data.txt", "evil")
    with pytest.raises(TritonUnavailable, match=r"data\.txt was changed"):
        wheel.unpacked(PINNED, folder)
    put_archive(folder)
    wheel.mend(PINNED, folder)
    assert (folder / "tool" / "data.txt").read_text() == "data"


def test_a_start_reads_no_file_but_the_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it costs one lstat a file, whatever their size."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    read: list[str] = []
    real = Path.open

    def spied(path: Path, *rest: Any, **named: Any) -> Any:
        read.append(path.name)
        return real(path, *rest, **named)

    monkeypatch.setattr(Path, "open", spied)
    monkeypatch.setattr(recorded, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    wheel.unpacked(PINNED, folder)
    assert set(read) <= {"RECORD", "tool.tree.json"}


@pytest.mark.parametrize("whole_seconds", [True, False])
def test_a_copy_with_other_times_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_seconds: bool
) -> None:
    """As a backup or the layer of an image leaves it; Python takes the bytecode as it is."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    for path in folder.rglob("*"):
        os.utime(path, (7, int(path.stat().st_mtime) if whole_seconds else 7))
    (bytecode,) = (folder / "tool" / "__pycache__").iterdir()
    before = bytecode.read_bytes()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    SourceFileLoader("code", str(folder / "tool" / "code.py")).get_code("code")
    assert bytecode.read_bytes() == before
    assert wheel.unpacked(PINNED, folder) == folder
    monkeypatch.setattr(recorded, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    assert wheel.unpacked(PINNED, folder) == folder


def test_a_copy_that_cannot_be_written_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run all the same."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    os.utime(folder / "tool" / "data.txt", (7, 7))

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(recorded, "_keep", refused)
    for _ in range(2):
        assert wheel.unpacked(PINNED, folder) == folder


def test_download_is_pinned_by_hash_and_without_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip gets the name, the version and the hash, and may bring nothing else."""
    seen: list[str] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        seen.extend([*command, requirements])
        return subprocess.CompletedProcess(command, 1, "", "Looking\nERROR: no such file\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(TritonUnavailable, match=r"could not fetch it \(no such file\)"):
        wheel.unpacked(PINNED, tmp_path / "tool")
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(seen)
    assert seen[-1] == f"some-tool==1.0 --hash=sha256:{PINNED.sha256}\n"
