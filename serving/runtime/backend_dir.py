"""The folder Triton takes its backends from: its own ones, plus ours for ONNX models.

Made once per content: the folder's name holds a digest, so a newer Conch or another Python never
changes the folder of a server that runs. It is looked over at each start, and made anew, which is
logged, where it is not as it was made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog

from conch import paths
from serving.runtime.find import TritonBinary

OUR_BACKEND = Path(__file__).parents[1] / "backends" / "onnxruntime" / "model.py"
CPP_LIBRARY = "libtriton_onnxruntime.so"
_OURS = Path("onnxruntime") / "model.py"
_STUB = Path("python") / "triton_python_backend_stub"
_BYTECODE = "__pycache__"
_log = structlog.get_logger()


def prepare(binary: TritonBinary) -> Path:
    """The backend folder for this Triton; a Triton with the C++ ONNX Runtime keeps its own."""
    if (binary.backends / "onnxruntime" / CPP_LIBRARY).exists():
        return binary.backends
    folder = paths.cache_dir() / "backends" / _digest(binary)
    if folder.is_dir():
        _remove_bytecode(folder)
        if not (found := differs(folder, binary)):
            return folder
        _log.warning("backends.made_anew", folder=str(folder), reason=found)
        folder.rename(Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-")) / folder.name)
    for old in folder.parent.glob(".old-*"):
        shutil.rmtree(old, ignore_errors=True)
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


def differs(folder: Path, binary: TritonBinary) -> str:
    """The first thing in the folder that is not as it was made; empty when nothing is.

    Looks at inode, or size and time, of what was linked or copied; reads only our own backend.
    """
    wanted = {
        Path(backend.name) / path.relative_to(backend): path
        for backend in binary.backends.iterdir()
        if backend.name != "onnxruntime"
        for path in _files(backend)
        if path.is_file()
    }
    wanted[_OURS] = OUR_BACKEND
    if binary.stub is not None:
        wanted[_STUB] = binary.stub
    there = {path.relative_to(folder) for path in _files(folder)}
    if strange := sorted(there ^ set(wanted)):
        return f"{strange[0]} was added" if strange[0] in there else f"{strange[0]} is missing"
    for name, original in wanted.items():
        path = folder / name
        if name == _STUB and binary.stub is not None:
            same = path.is_symlink() and path.readlink() == original
        elif name == _OURS:
            same = not path.is_symlink() and path.read_bytes() == original.read_bytes()
        else:
            same = _is_same_file(path.lstat(), original.stat())
        if not same:
            return f"{name} was changed"
    return ""


def _is_same_file(path: os.stat_result, original: os.stat_result) -> bool:
    """Whether it is the original, by a hard link, or a copy that keeps its time."""
    if (path.st_dev, path.st_ino) == (original.st_dev, original.st_ino):
        return True
    return stat.S_ISREG(path.st_mode) and (path.st_size, path.st_mtime_ns) == (
        original.st_size,
        original.st_mtime_ns,
    )


def _files(folder: Path) -> Iterator[Path]:
    """What lies below it and is no folder, a link to one included; without compiled programs.

    Stubs that run write those, and another start removes them: they come and go meanwhile.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != _BYTECODE]
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in (*names, *links))


def _remove_bytecode(folder: Path) -> None:
    """Python would run a planted ``.pyc`` unread; the two programs in here compile in no time."""
    for root, folders, _ in os.walk(folder):
        if _BYTECODE in folders:
            folders.remove(_BYTECODE)
            shutil.rmtree(Path(root) / _BYTECODE, ignore_errors=True)


def _fill(folder: Path, binary: TritonBinary) -> None:
    """The Triton's own backends, its Python stub for this interpreter, and our backend.

    Libraries are real files here: Triton refuses one that is a link out of its backend's folder.
    """
    for backend in sorted(binary.backends.iterdir()):
        if backend.name != "onnxruntime":
            shutil.copytree(
                backend,
                folder / backend.name,
                copy_function=_link_or_copy,
                ignore=shutil.ignore_patterns(_BYTECODE),
            )
    if binary.stub is not None:
        # A link, never a copy: the stub finds its libraries relative to where it really lies.
        link = folder / _STUB
        link.unlink(missing_ok=True)
        link.symlink_to(binary.stub)
    (folder / _OURS).parent.mkdir()
    shutil.copyfile(OUR_BACKEND, folder / _OURS)


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
