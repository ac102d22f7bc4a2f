"""Finds NVIDIA's perf_analyzer: ``CONCH_PERF_ANALYZER``, PATH, else the pinned wheel that holds it.

The wheel ``perf-analyzer`` needs glibc 2.38; ``tritonclient==2.51.0`` carries one that runs on 2.35
once two libraries are found. Both are in the Triton wheel under mangled names, so a folder of two
symlinks on LD_LIBRARY_PATH is enough.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from conch import loopback, paths
from conch.errors import TritonUnavailable
from serving.runtime import find, wheel
from serving.runtime.wheel import PinnedWheel

ENV_BINARY = "CONCH_PERF_ANALYZER"
WHEEL = PinnedWheel(
    package="tritonclient",
    version="2.51.0",
    sha256="c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52",
    record_sha256="4126d15a8167291607cceb05acf5dce9b1bd87910fd69bdc785ff7915d10c44a",
)
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfAnalyzer:
    """A perf_analyzer that can be started.

    Attributes:
        path: the executable.
        origin: ``env``, ``path`` or ``wheel``.
        library_path: the folder for LD_LIBRARY_PATH; None when it needs none.
    """

    path: Path
    origin: str
    library_path: Path | None = None

    def environment(self) -> dict[str, str]:
        """The environment to start it with; a server on this machine is asked directly."""
        environment = loopback.no_proxy_environment(os.environ)
        if self.library_path is None:
            return environment
        parts = [str(self.library_path), os.environ.get("LD_LIBRARY_PATH", "")]
        return {**environment, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, parts))}


def locate(*, fetch: bool = True) -> PerfAnalyzer:
    """The perf_analyzer to use.

    Args:
        fetch: download the wheels (14 MB, and Triton's 55 MB) when nothing else is there.

    Raises:
        TritonUnavailable: when there is none, or ``CONCH_PERF_ANALYZER`` points at nothing.
    """
    if explicit := os.environ.get(ENV_BINARY):
        path = shutil.which(explicit)
        if path is None:
            raise TritonUnavailable(
                f"{ENV_BINARY}: {explicit!r}, must be an executable perf_analyzer.",
                hint="Mend the path, or unset it to use the bundled one.",
            )
        return PerfAnalyzer(path=Path(path), origin="env")
    if on_path := shutil.which("perf_analyzer"):
        return PerfAnalyzer(path=Path(on_path), origin="path")
    folder = wheel_folder()
    if not fetch and not (folder.is_dir() and find.wheel_folder().is_dir()):
        raise TritonUnavailable(
            f"perf_analyzer: none on PATH, and {folder} is not complete.",
            hint="Run any `conch perf run`; it downloads perf_analyzer (14 MB).",
        )
    return _from_wheels(
        wheel.unpacked(WHEEL, folder), wheel.unpacked(find.TRITON_WHEEL, find.wheel_folder())
    )


def wheel_folder() -> Path:
    """Where the pinned wheel is unpacked."""
    return paths.cache_dir() / "perf_analyzer" / WHEEL.version


def _from_wheels(client: Path, triton: Path) -> PerfAnalyzer:
    """The binary of the one wheel with the libraries of the other."""
    binary = client / f"tritonclient-{WHEEL.version}.data" / "data" / "bin" / "perf_analyzer"
    binary.chmod(0o755)
    links = client.parent / f"{client.name}.libraries"
    links.mkdir(exist_ok=True)
    for name, pattern in LIBRARIES.items():
        found = sorted((triton / "nvidia_pytriton.libs").glob(pattern))
        if not found:
            raise TritonUnavailable(
                f"perf_analyzer: {pattern} is not in {triton}, it must be there.",
                hint=f"Remove {triton} so that it is fetched anew.",
            )
        _link(links / name, found[0])
    return PerfAnalyzer(path=binary, origin="wheel", library_path=links)


def _link(link: Path, to: Path) -> None:
    """A symlink, replaced in one step: another process may be doing the same."""
    if link.is_symlink() and link.resolve() == to.resolve():
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(link)
