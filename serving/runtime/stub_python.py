"""The Python that Triton's stubs take their packages from.

The stub of the bundled Triton is compiled against numpy 1: with numpy 2 it reads an array's item
size from where that no longer is, and every output goes out empty, without an error. So it gets an
environment of its own: numpy 1.26 first, then all the packages of ours.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import venv
from pathlib import Path

import structlog

from conch import paths
from conch.errors import TritonUnavailable
from serving import locks
from serving.runtime import wheel
from serving.runtime.find import TritonBinary
from serving.runtime.wheel import PinnedWheel

_log = structlog.get_logger()

LOCK_WAIT_S = 60.0

NUMPY_VERSION = "1.26.4"
# By Python minor version, of the wheel and of its RECORD; numpy 1 has none for 3.13 and newer.
NUMPY_SHA256 = {
    (3, 11): (
        "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5",
        "8c578fff91a9d88335375e40afc27f76cbddaff73c7a104be4a5f43352295cae",
    ),
    (3, 12): (
        "675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed",
        "75d7d7da9e91c853e27e6b620410027de076b5dea8b2b997f33d91c9fe41d56f",
    ),
}


def bin_dir(binary: TritonBinary) -> Path:
    """The folder to put first on the server's PATH.

    Raises:
        TritonUnavailable: when numpy 1 is needed and cannot be had.
    """
    if binary.origin != "wheel":
        return Path(sys.executable).parent
    folder = paths.cache_dir() / "python" / _digest()
    numpy = wheel.unpacked(numpy_wheel(), numpy_folder())
    if not _is_as_made(folder, numpy):
        busy = TritonUnavailable(
            f"{folder}: another process has been making it for {LOCK_WAIT_S:g} s.",
            hint="Wait for it to end, then run it again.",
        )
        with locks.held(folder.parent / ".lock", wait_s=LOCK_WAIT_S, busy=busy):
            if not _is_as_made(folder, numpy):  # else another one was faster
                _make(folder, numpy)
    return folder / "bin"


def numpy_folder() -> Path:
    """Where numpy 1 is unpacked for this interpreter."""
    minor = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return paths.cache_dir() / "numpy" / f"{NUMPY_VERSION}-{minor}"


def numpy_wheel() -> PinnedWheel:
    """The numpy 1 of this interpreter.

    Raises:
        TritonUnavailable: when there is none.
    """
    pinned = NUMPY_SHA256.get(sys.version_info[:2])
    if pinned is None:
        known = " or ".join(f"{major}.{minor}" for major, minor in NUMPY_SHA256)
        raise TritonUnavailable(
            f"bundled Triton: Python {sys.version_info[0]}.{sys.version_info[1]}, "
            f"its Python stubs need numpy 1, which there is for Python {known}.",
            hint=f"Create the environment with Python {known}, or point CONCH_TRITON at another "
            "Triton.",
        )
    return PinnedWheel(
        package="numpy",
        version=NUMPY_VERSION,
        sha256=pinned[0],
        record_sha256=pinned[1],
        imported=True,
    )


def _make(folder: Path, numpy: Path) -> None:
    """A virtual environment that holds only where to look: numpy 1, then our packages."""
    if folder.is_dir():
        _log.warning("python.made_anew", folder=str(folder), reason="it is not as it was made")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".python-") as temporary:
        fresh = Path(temporary) / "fresh"
        _fill(fresh, numpy)
        if folder.is_dir():
            folder.rename(Path(temporary) / "old")
        fresh.rename(folder)


def _fill(folder: Path, numpy: Path) -> None:
    """Make the environment in a folder that is empty or not there."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    for path in (folder / "bin").iterdir():
        if not path.is_symlink():  # the scripts to activate it: nobody does
            path.unlink()
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    lines = [str(numpy), *(f"import site; site.addsitedir({entry!r})" for entry in _packages())]
    pth = folder / "lib" / minor / "site-packages" / "conch.pth"
    pth.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_as_made(folder: Path, numpy: Path) -> bool:
    """Whether it is what would be made now: it is small, so one is made to compare with.

    Its ``bin`` is first on the PATH of Triton, which starts a shell and asks for ``env`` and
    ``tar``; its packages' folder is where a ``.pth`` or ``sitecustomize`` would be run.
    """
    if not folder.is_dir():
        return False
    with tempfile.TemporaryDirectory(prefix="conch-python-") as temporary:
        _fill(Path(temporary), numpy)
        return _content(folder) == _content(Path(temporary))


def _content(folder: Path) -> dict[str, str]:
    """Each file's text and each link's target, by path; without where it lies itself."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            lines = text.replace(str(folder), "").splitlines()
            found[name] = "\n".join(line for line in lines if not line.startswith("command ="))
    return found


def _packages() -> list[str]:
    """The package folders of this environment, in order."""
    return [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]


def _digest() -> str:
    """Names the environment: the interpreter, where its packages are, and where its numpy is."""
    parts = [sys.base_prefix, sys.version, str(numpy_folder()), *_packages()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
