"""Whether an unpacked wheel still holds what was unpacked, told without reading its files.

Theory of operation. A wheel's own RECORD has the sha256 and the size of each of its files, and its
own sha256 is pinned in our code: so it cannot be changed unseen. At unpacking the files are checked
against it by content, and the time of each is kept in a file beside the folder. A start reads
RECORD and that file, and looks at each file's size and time, and that there is none besides: one
``lstat`` a file. A copy of the cache (a backup, the layer of an image) may have other times: a file
of another time is read, and its new time kept. Who changes content and forges size and time is
found by ``full``, which ``conch doctor`` runs.
Python would run a planted ``.pyc`` unread, so all of them are made at unpacking, and recorded; any
other is removed. They do not depend on their source's time, or Python would write them anew.
"""

from __future__ import annotations

import base64
import compileall
import contextlib
import csv
import hashlib
import io
import json
import os
import py_compile
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_RECORD = "RECORD"
_BYTECODE = "__pycache__"
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file as it should be.

    Attributes:
        size: in bytes.
        mtime_ns: time of its last change.
        sha256: of its content, hex.
    """

    size: int
    mtime_ns: int
    sha256: str


def tree_file(folder: Path) -> Path:
    """Where the times are kept: beside the folder, which holds the wheel's files only."""
    return folder.parent / f"{folder.name}.tree.json"


def accept(folder: Path, record_sha256: str, *, bytecode: bool) -> str:
    """Check each file's content and keep its time; gives what differs, empty when nothing does.

    Bytecode that others left is removed; it is made anew where it is wanted.

    Args:
        folder: the unpacked wheel.
        record_sha256: of its RECORD.
        bytecode: whether Python programs import from it.

    Raises:
        OSError: when the disk refuses.
    """
    for root, folders, _ in os.walk(folder):
        if _BYTECODE in folders:
            folders.remove(_BYTECODE)
            shutil.rmtree(Path(root) / _BYTECODE)
    listed = _listed(folder, record_sha256)
    if isinstance(listed, str):
        return listed
    for name, there in _files(folder):
        if name in listed and (fault := _fault(folder, name, there, listed[name], content=True)):
            return fault
    # Bytecode may be there again: a program that runs now imports from here.
    if fault := _names({n for n, _ in _files(folder) if _BYTECODE not in n}, set(listed)):
        return fault
    if bytecode:
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, workers=1, force=True, invalidation_mode=unchecked)
    tree = {
        name: Entry(size=there.st_size, mtime_ns=there.st_mtime_ns, sha256=_sha256(folder / name))
        for name, there in _files(folder)
    }
    _keep(folder, tree)
    return ""


def is_recorded(folder: Path) -> bool:
    """Whether its times were kept; an older Conch did not."""
    return tree_file(folder).is_file()


def differs(folder: Path, record_sha256: str, *, full: bool = False) -> str:
    """The first thing in the folder that is not as it was unpacked; empty when nothing is.

    Args:
        folder: the unpacked wheel.
        record_sha256: of its RECORD.
        full: compare the content of each file, too: seconds instead of milliseconds.
    """
    try:
        listed = _listed(folder, record_sha256)
        if isinstance(listed, str):
            return listed
        tree = _read_tree(folder)
        found: set[str] = set()
        anew: dict[str, Entry] = {}
        for name, there in _files(folder):
            if name not in tree and _BYTECODE in name:
                (folder / name).unlink()  # nobody can vouch for it, and Python does without
                continue
            found.add(name)
            if name not in tree:
                return f"{folder / name} was added"
            entry = tree[name]
            if name in listed and (entry.size, entry.sha256) != listed[name]:
                return f"{tree_file(folder)} says something else than {_RECORD} of {name}"
            if there.st_mtime_ns != entry.mtime_ns:
                anew[name] = replace(entry, mtime_ns=there.st_mtime_ns)
            expected = (entry.size, entry.sha256)
            if fault := _fault(folder, name, there, expected, content=full or name in anew):
                return fault
        fault = _names(found, set(tree) | set(listed))
        if anew and not fault:
            with contextlib.suppress(OSError):  # read-only: then they are read each time
                _keep(folder, tree | anew)
        return fault
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{folder} cannot be checked ({error})"


def _listed(folder: Path, record_sha256: str) -> dict[str, tuple[int, str]] | str:
    """(size, sha256) of each file by RECORD, itself among them; what is wrong with it, as text."""
    records = sorted(folder.glob(f"*.dist-info/{_RECORD}"))
    if len(records) != 1:
        return f"{folder} has {len(records)} files {_RECORD}"
    data = records[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != record_sha256:
        return f"{records[0]} was changed"
    listed = {records[0].relative_to(folder).as_posix(): (len(data), record_sha256)}
    for name, digest, size in csv.reader(io.StringIO(data.decode("utf-8"))):
        if digest and _BYTECODE not in name:
            raw = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
            listed[name] = (int(size), raw.hex())
    return listed


def _keep(folder: Path, tree: dict[str, Entry]) -> None:
    """Write what each file is to be, in one step."""
    kept = {name: [one.size, one.mtime_ns, one.sha256] for name, one in tree.items()}
    temporary = tree_file(folder).with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(kept), encoding="utf-8")
    temporary.replace(tree_file(folder))


def _read_tree(folder: Path) -> dict[str, Entry]:
    """What was kept at unpacking."""
    kept = json.loads(tree_file(folder).read_text(encoding="utf-8"))
    return {
        name: Entry(size=size, mtime_ns=mtime_ns, sha256=sha256)
        for name, (size, mtime_ns, sha256) in kept.items()
    }


def _files(folder: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Each file by its path in the folder, with what ``lstat`` says of it."""
    with os.scandir(folder / below if below else folder) as entries:
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder, name)
            else:
                yield name, entry.stat(follow_symlinks=False)


def _fault(
    folder: Path,
    name: str,
    there: os.stat_result,
    expected: tuple[int, str],
    *,
    content: bool,
) -> str:
    """What is wrong with one file; empty when nothing is."""
    size, sha256 = expected
    if not stat.S_ISREG(there.st_mode) or there.st_size != size:
        return f"{folder / name} was changed"
    if content and _sha256(folder / name) != sha256:
        return f"{folder / name} was changed"
    return ""


def _names(found: set[str], wanted: set[str]) -> str:
    """Which file is missing or too much; empty when none is."""
    if added := sorted(found - wanted):
        return f"{added[0]} was added"
    if missing := sorted(wanted - found):
        return f"{missing[0]} is missing"
    return ""


def _sha256(path: Path) -> str:
    """The hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
