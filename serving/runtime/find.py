"""Which Triton to run: ``CONCH_TRITON``, else ``tritonserver`` on PATH, else the pinned wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from conch import paths
from conch.errors import TritonUnavailable
from serving.runtime import wheel
from serving.runtime.wheel import PinnedWheel

ENV_BINARY = "CONCH_TRITON"
WHEEL_TRITON_VERSION = "2.51.0"
# The newest wheel on PyPI that holds a Triton binary (release 24.10). It lacks the security fixes
# from 24.12 on: loopback only, see SECURITY.md.
TRITON_WHEEL = PinnedWheel(
    package="nvidia-pytriton",
    version="0.7.0",
    sha256="21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df",
    record_sha256="2470a12ada972b43a35ea6d8cdebd3059bbaad3f2cd0b9aea3f3d617f51d075b",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonBinary:
    """A Triton that can be started.

    Attributes:
        path: the ``tritonserver`` executable.
        version: like ``2.51.0``; "unknown" when only a running server could tell.
        origin: ``env``, ``path`` or ``wheel``.
        library_path: folders for LD_LIBRARY_PATH.
        backends: the folder with its own backends.
        caches: the folder with its response caches; None when it has none.
        stub: the Python backend's stub for this interpreter; None when it is the backend's own.
    """

    path: Path
    version: str
    origin: str
    library_path: tuple[Path, ...]
    backends: Path
    caches: Path | None
    stub: Path | None

    def help_text(self) -> str:
        """What the binary says to ``--help``: the flags it knows.

        Raises:
            TritonUnavailable: when it cannot be run.
        """
        try:
            done = subprocess.run(
                [str(self.path), "--help"],
                capture_output=True,
                check=False,
                text=True,
                timeout=60,
                env=os.environ | {"LD_LIBRARY_PATH": self.ld_library_path()},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _does_not_run(self.path, str(error)) from error
        text = done.stdout + done.stderr
        if "--model-repository" not in text:
            reason = text.strip().splitlines()[-1] if text.strip() else f"exit {done.returncode}"
            raise _does_not_run(self.path, reason)
        return text

    def ld_library_path(self) -> str:
        """``library_path`` before what the environment has already."""
        ours = [str(folder) for folder in self.library_path]
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        return os.pathsep.join([*ours, *([inherited] if inherited else [])])


def find(*, fetch: bool = True) -> TritonBinary:
    """The Triton to run.

    Args:
        fetch: download the wheel when nothing else is there.

    Raises:
        TritonUnavailable: when there is none, or ``CONCH_TRITON`` points at nothing.
    """
    if explicit := os.environ.get(ENV_BINARY):
        path = shutil.which(explicit)
        if path is None:
            raise TritonUnavailable(
                f"{ENV_BINARY}: {explicit!r}, must be an executable tritonserver.",
                hint="Mend the path, or unset it to use the bundled Triton.",
            )
        return _installed(Path(path), origin="env")
    if on_path := shutil.which("tritonserver"):
        return _installed(Path(on_path), origin="path")
    folder = wheel_folder()
    if not folder.is_dir() and not fetch:
        raise TritonUnavailable(
            f"Triton: no tritonserver on PATH, and {folder} is not there.",
            hint="`conch doctor --fix` downloads it (55 MB).",
        )
    return _from_wheel(wheel.unpacked(TRITON_WHEEL, folder))


def wheel_folder() -> Path:
    """Where the pinned wheel is unpacked."""
    return paths.cache_dir() / "triton" / WHEEL_TRITON_VERSION


def python_library_dir() -> Path | None:
    """The folder with this interpreter's libpython, which the stub loads; None when not shared."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if not folder or not name or ".so" not in str(name):
        return None
    return Path(folder) if (Path(folder) / str(name)).exists() else None


def _installed(path: Path, *, origin: str) -> TritonBinary:
    """A Triton laid out as in NVIDIA's images: bin/, backends/, caches/ side by side."""
    root = path.resolve().parent.parent
    version_file = root / "TRITON_VERSION"
    caches, library = root / "caches", root / "lib"
    return TritonBinary(
        path=path,
        version=version_file.read_text().strip() if version_file.is_file() else "unknown",
        origin=origin,
        library_path=(library,) if library.is_dir() else (),
        backends=root / "backends",
        caches=caches if caches.is_dir() else None,
        stub=None,
    )


def _from_wheel(folder: Path) -> TritonBinary:
    """The Triton inside the unpacked wheel."""
    root = folder / "pytriton" / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(entry.name for entry in stub.parent.parent.iterdir()))
        raise TritonUnavailable(
            f"Triton's Python backend: no stub for Python {minor}, there are stubs for {known}.",
            hint="Create the environment with one of these versions.",
        )
    libraries = (folder / "nvidia_pytriton.libs", python_library_dir())
    return TritonBinary(
        path=root / "bin" / "tritonserver",
        version=WHEEL_TRITON_VERSION,
        origin="wheel",
        library_path=tuple(entry for entry in libraries if entry is not None),
        backends=root / "backends",
        caches=root / "caches",
        stub=stub,
    )


def _does_not_run(path: Path, reason: str) -> TritonUnavailable:
    """The error for a binary that fails at ``--help``."""
    return TritonUnavailable(
        f"{path}: does not start ({reason}).",
        hint="The bundled Triton needs glibc 2.35 or newer on x86_64; `conch doctor` shows yours.",
    )
