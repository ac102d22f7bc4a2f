"""The folder Triton takes its backends from: its own ones, plus ours for ONNX models.

Made once per content: the folder's name holds a digest, so a newer Conch or another Python never
changes the folder of a server that runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from conch import paths
from serving.runtime.find import TritonBinary

OUR_BACKEND = Path(__file__).parents[1] / "backends" / "onnxruntime" / "model.py"
CPP_LIBRARY = "libtriton_onnxruntime.so"


def prepare(binary: TritonBinary) -> Path:
    """The backend folder for this Triton; a Triton with the C++ ONNX Runtime keeps its own."""
    if (binary.backends / "onnxruntime" / CPP_LIBRARY).exists():
        return binary.backends
    folder = paths.cache_dir() / "backends" / _digest(binary)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".backends-"))
    try:
        _fill(temporary, binary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster: its folder is the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fill(folder: Path, binary: TritonBinary) -> None:
    """The Triton's own backends, its Python stub for this interpreter, and our backend.

    Libraries are real files here: Triton refuses one that is a link out of its backend's folder.
    """
    for backend in sorted(binary.backends.iterdir()):
        if backend.name != "onnxruntime":
            shutil.copytree(backend, folder / backend.name, copy_function=_link_or_copy)
    if binary.stub is not None:
        # A link, never a copy: the stub finds its libraries relative to where it really lies.
        link = folder / "python" / "triton_python_backend_stub"
        link.unlink(missing_ok=True)
        link.symlink_to(binary.stub)
    ours = folder / "onnxruntime"
    ours.mkdir()
    shutil.copyfile(OUR_BACKEND, ours / "model.py")


def _link_or_copy(source: str, target: str) -> None:
    """A hard link where the filesystem allows one (backends can be gigabytes), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _digest(binary: TritonBinary) -> str:
    """Names the content: the Triton, the Python, and our backend's text."""
    digest = hashlib.sha256(b"2" + OUR_BACKEND.read_bytes())
    digest.update(
        f"{binary.backends}|{binary.version}|{binary.stub}|{sys.version_info[:2]}".encode()
    )
    return digest.hexdigest()[:16]
