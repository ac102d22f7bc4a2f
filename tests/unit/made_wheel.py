"""A small wheel, its download, and a Triton in the layout of the one that is unpacked."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from serving.runtime import find
from serving.runtime.find import TritonBinary
from serving.runtime.wheel import PinnedWheel

FILES = {"tool/bin/run": "#!/bin/sh\n", "tool/data.txt": "data", "tool/code.py": "x = 1\n"}
INFO = "some_tool-1.0.dist-info/RECORD"


def record(files: dict[str, str]) -> str:
    """The list of files that a wheel has of itself."""
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        lines.append(f"{name},sha256={digest.rstrip('=')},{len(text)}\n")
    return "".join([*lines, f"{INFO},,\n"])


def archive_bytes(files: dict[str, str]) -> bytes:
    """A wheel of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in {**files, INFO: record(FILES)}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if "bin" in name else 0o100644) << 16
            archive.writestr(info, text)
    return data.getvalue()


PINNED = PinnedWheel(
    package="some-tool",
    version="1.0",
    sha256=hashlib.sha256(archive_bytes(FILES)).hexdigest(),
    record_sha256=hashlib.sha256(record(FILES).encode()).hexdigest(),
    imported=True,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine is found, nothing is written outside the test."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONCH_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(find.ENV_BINARY, raising=False)
    return cache


def put_archive(folder: Path, data: bytes = archive_bytes(FILES)) -> None:
    """A finished download beside the folder it is for."""
    downloads = folder.parent / f"{folder.name}.download"
    downloads.mkdir(parents=True)
    (downloads / "some_tool-1.0-py3-none-any.whl").write_bytes(data)


def executable(path: Path) -> Path:
    """A file that may be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def a_wheel_triton(root: Path) -> TritonBinary:
    """The layout of the unpacked wheel."""
    (root / "backends" / "python").mkdir(parents=True)
    (root / "backends" / "python" / "libtriton_python.so").write_text("library")
    stub = executable(root / "stubs" / "triton_python_backend_stub")
    return TritonBinary(
        path=root / "bin" / "tritonserver",
        version="2.51.0",
        origin="wheel",
        library_path=(),
        backends=root / "backends",
        caches=None,
        stub=stub,
    )
