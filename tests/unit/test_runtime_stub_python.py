"""The Python that the stubs run: ours, with numpy 1 before our packages."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from conch.errors import TritonUnavailable
from serving.runtime import find, stub_python
from tests.unit.made_wheel import INFO, a_wheel_triton, own_cache, put_archive, record

__all__ = ["own_cache"]
NUMPY_FILES = {"numpy/__init__.py": "__version__ = 'the one in the overlay'"}


@pytest.fixture
def numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numpy of one file, its download there."""
    listed = record(NUMPY_FILES)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in {**NUMPY_FILES, INFO: listed}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    sums = tuple(hashlib.sha256(b).hexdigest() for b in (data.getvalue(), listed.encode()))
    monkeypatch.setattr(stub_python, "NUMPY_SHA256", {sys.version_info[:2]: sums})
    put_archive(stub_python.numpy_folder(), data.getvalue())


PLANTED: dict[str, Callable[[Path], object]] = {
    "sitecustomize": lambda f: (
        next(f.glob("lib/python3*/site-packages")) / "sitecustomize.py"
    ).write_text("x"),
    "another pth": lambda f: (next(f.glob("lib/python3*/site-packages")) / "a.pth").write_text(
        "import os"
    ),
    "our pth": lambda f: next(f.glob("lib/python3*/site-packages/conch.pth")).write_text("/evil"),
    "tar": lambda f: (f / "bin" / "tar").write_text("evil"),
    "python": lambda f: [
        (f / "bin" / "python3").unlink(),
        (f / "bin" / "python3").symlink_to("/bin/sh"),
    ],
    "home": lambda f: (f / "pyvenv.cfg").write_text("home = /evil"),
}


@pytest.mark.parametrize("change", PLANTED)
def test_stub_python_that_was_changed_is_made_anew(
    own_cache: Path, numpy_1: None, change: str
) -> None:
    """Its folder is first on the PATH of Triton, and what lies in it is run by the stubs."""
    binary = a_wheel_triton(own_cache / "triton")
    folder = stub_python.bin_dir(binary).parent
    before = stub_python._content(folder)
    PLANTED[change](folder)
    assert stub_python._content(folder) != before
    with capture_logs() as logs:
        assert stub_python.bin_dir(binary).parent == folder
    assert stub_python._content(folder) == before
    assert [e["event"] for e in logs] == ["python.made_anew"]
    with capture_logs() as logs:
        stub_python.bin_dir(binary)
    assert not logs


def test_stub_python_is_made_anew_once_by_several_at_a_time(own_cache: Path, numpy_1: None) -> None:
    """Servers that start together find the same folder; none takes it from under another."""
    binary = a_wheel_triton(own_cache / "triton")
    folder = stub_python.bin_dir(binary).parent
    for change in PLANTED.values():
        change(folder)
        with capture_logs() as logs, ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: stub_python.bin_dir(binary), range(8)))
        assert set(found) == {folder / "bin"}
        assert [e["event"] for e in logs] == ["python.made_anew"]
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == [folder.name]


def test_stub_python_of_another_cache_is_another(
    own_cache: Path, numpy_1: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache whose folders are links to this one's says in its own where its numpy is."""
    binary = a_wheel_triton(own_cache / "triton")
    folder = stub_python.bin_dir(binary).parent
    other = tmp_path / "other"
    other.mkdir()
    for path in own_cache.iterdir():
        (other / path.name).symlink_to(path)
    monkeypatch.setenv("CONCH_CACHE", str(other))
    assert stub_python.bin_dir(binary).parent.name != folder.name
    monkeypatch.setenv("CONCH_CACHE", str(own_cache))
    with capture_logs() as logs:
        assert stub_python.bin_dir(binary).parent == folder
    assert not logs


def test_stub_python_puts_numpy_1_before_our_packages(own_cache: Path, numpy_1: None) -> None:
    """The overlay sees numpy 1 first and everything of this environment after it."""
    folder = stub_python.bin_dir(a_wheel_triton(own_cache / "triton"))
    code = "import numpy, yaml; print(numpy.__version__, yaml.__file__)"
    done = subprocess.run(
        [str(folder / "python3"), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    version, _, where = done.stdout.strip().rpartition(" ")
    assert version == "the one in the overlay"
    assert where == yaml.__file__


def test_stub_python_names_the_pythons_that_numpy_1_has(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter without numpy 1 wheels is refused with the way out."""
    monkeypatch.setattr(stub_python, "NUMPY_SHA256", {(3, 10): ("00", "00")})
    with pytest.raises(TritonUnavailable, match=r"numpy 1, which there is for Python 3\.10"):
        stub_python.bin_dir(a_wheel_triton(own_cache / "triton"))


def test_stub_python_is_ours_for_an_installed_triton(tmp_path: Path) -> None:
    """An installed Triton's stubs are its own affair."""
    installed = find._installed(tmp_path / "bin" / "tritonserver", origin="path")
    assert stub_python.bin_dir(installed) == Path(sys.executable).parent
