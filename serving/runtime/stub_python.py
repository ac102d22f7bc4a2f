"""The Python that Triton's stubs take their packages from.

The stub of the bundled Triton is compiled against numpy 1: with numpy 2 it reads an array's item
size from where that no longer is, and every output goes out empty, without an error. So it gets an
environment of its own: numpy 1.26 first, then all the packages of ours.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import venv
from pathlib import Path

from conch import paths
from conch.errors import TritonUnavailable
from serving.runtime import wheel
from serving.runtime.find import TritonBinary
from serving.runtime.wheel import PinnedWheel

NUMPY_VERSION = "1.26.4"
# By Python minor version; numpy 1 has no wheels for 3.13 and newer.
NUMPY_SHA256 = {
    (3, 11): "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5",
    (3, 12): "675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed",
}


def bin_dir(binary: TritonBinary) -> Path:
    """The folder to put first on the server's PATH.

    Raises:
        TritonUnavailable: when numpy 1 is needed and cannot be had.
    """
    if binary.origin != "wheel":
        return Path(sys.executable).parent
    folder = paths.cache_dir() / "python" / _digest()
    if not folder.is_dir():
        _create(folder, _numpy())
    return folder / "bin"


def numpy_folder() -> Path:
    """Where numpy 1 is unpacked for this interpreter."""
    minor = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return paths.cache_dir() / "numpy" / f"{NUMPY_VERSION}-{minor}"


def _numpy() -> Path:
    """The folder that holds numpy 1."""
    sha256 = NUMPY_SHA256.get(sys.version_info[:2])
    if sha256 is None:
        known = " or ".join(f"{major}.{minor}" for major, minor in NUMPY_SHA256)
        raise TritonUnavailable(
            f"bundled Triton: Python {sys.version_info[0]}.{sys.version_info[1]}, "
            f"its Python stubs need numpy 1, which there is for Python {known}.",
            hint=f"Create the environment with Python {known}, or point CONCH_TRITON at another "
            "Triton.",
        )
    pinned = PinnedWheel(package="numpy", version=NUMPY_VERSION, sha256=sha256)
    return wheel.unpacked(pinned, numpy_folder())


def _create(folder: Path, numpy: Path) -> None:
    """A virtual environment that holds only where to look: numpy 1, then our packages."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".python-"))
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(temporary)
        minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
        lines = [str(numpy), *(f"import site; site.addsitedir({entry!r})" for entry in _packages())]
        pth = temporary / "lib" / minor / "site-packages" / "conch.pth"
        pth.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster: its folder is the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _packages() -> list[str]:
    """The package folders of this environment, in order."""
    return [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]


def _digest() -> str:
    """Names the environment: the interpreter, where its packages are, and the numpy."""
    parts = [sys.base_prefix, sys.version, NUMPY_VERSION, *_packages()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
