"""The Python stubs below one Triton: which instance of which model each is, and which are dead.

Theory of operation. A Triton 2.51 with a dead stub says ready, and fails each request that it gives
to it. A probe cannot choose its instance, but each instance of a Python-based backend is a child
process of tritonserver, whose command line names the model's file and the instance. A child that
was killed, or crashed, stays a zombie for as long as Triton keeps the instance; Triton reaps those
that it ends itself at once. So a zombie that stays is a dead instance, unless as many newer
processes as the model has instances are there: a second copy that was loaded since. Names do not
tell: after a smaller and a larger count in place two instances of one copy have the same.
The path on the command line is as Triton was given its repository: relative, by a link, or as a
container sees it. A stub of a path that does not lead to the repository is a stranger: whose it is
cannot be told, and so not either which instances are missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import psutil

STUB = "triton_python_backend_stub"
_COMMAND_LENGTH = 15
"""The kernel keeps so many characters of a process's name; a zombie has nothing else left."""
_INSTANCE_FROM_END = -2
"""Where 2.51 puts the instance's name: before the last argument, the backend's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """One stub process.

    Attributes:
        model: whose; empty when it died before anyone looked at it.
        version: of the model.
        instance: Triton's name of the instance; two of a copy may have the same.
        started_s: when it started, s since boot: which of two is the newer one.
        alive: whether it runs.
        stopped: whether it was stopped by a signal (SIGSTOP).
        resident_bytes: of memory when it last ran.
    """

    pid: int
    model: str
    version: int
    instance: str
    started_s: float
    alive: bool = True
    stopped: bool = False
    resident_bytes: int = 0


def parse(
    arguments: Sequence[str], repository: Path, *, folder: str = "/"
) -> tuple[str, int, str] | None:
    """Model, version and instance of a stub's command line; None when it is none of ours.

    Args:
        arguments: of the command line.
        repository: the folder, without links.
        folder: that the process runs in.

    Example:
        >>> line = ["/b/python/triton_python_backend_stub", "/repo/m/3/model.py", "shm", "1", "1",
        ...         "77", "/b/python", "336", "m_0_1", "DEFAULT"]
        >>> parse(line, Path("/repo"))
        ('m', 3, 'm_0_1')
    """
    if len(arguments) < 4 or PurePosixPath(arguments[0]).name != STUB:
        return None
    file = Path(folder, arguments[1])
    # A link below the repository may lead anywhere: so which folder above the file it is.
    above = next((one for one in file.parents if os.path.realpath(one) == str(repository)), file)
    parts = file.relative_to(above).parts
    if len(parts) < 3 or not (parts[1].isascii() and parts[1].isdigit()):
        return None
    return parts[0], int(parts[1]), arguments[_INSTANCE_FROM_END]


def look(triton: int, repository: Path, known: Mapping[int, Stub]) -> dict[int, Stub]:
    """The stubs by pid, also those that are dead; who each was is ``known`` from earlier looks.

    Args:
        triton: pid of tritonserver; without it there are no stubs.
        repository: the folder that this Triton was started on.
        known: what the last look gave.
    """
    try:
        children = psutil.Process(triton).children()
    except psutil.Error:
        return {}
    found = {}
    for process in children:
        with contextlib.suppress(psutil.Error):
            if stub := _stub(process, repository, known.get(process.pid)):
                found[stub.pid] = stub
    return found


def processes(triton: int) -> list[psutil.Process]:
    """The processes below this one that are stubs by their name, dead ones among them."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(triton).children():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith(STUB[:_COMMAND_LENGTH]):
                    found.append(process)
    return found


def has_strangers(triton: int, repository: Path) -> bool:
    """Whether a stub of this Triton runs of which nobody can tell whose it is."""
    for process in processes(triton):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and _named(process, repository) is None:
                return True
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:  # another user's
            return True
    return False


def alive_count(stubs: Collection[Stub], model: str, versions: Collection[int], count: int) -> int:
    """How many of the instances of these versions run, by the newest processes of each.

    Args:
        stubs: what is there.
        model: whose.
        versions: that are served.
        count: instances that each of them has: an older process is one of a copy before.
    """
    alive = 0
    for version in versions:
        own = [stub for stub in stubs if stub.model == model and stub.version == version]
        own.sort(key=lambda stub: stub.started_s, reverse=True)
        alive += sum(stub.alive for stub in own[:count])
    return alive


def suspects(before: Iterable[Stub], now: Collection[Stub]) -> set[str]:
    """Models with fewer processes alive than they had, or a dead one; empty name: unknown.

    What Triton itself has ended (a smaller count, a copy that was replaced, a model unloaded) is
    among them: who asks next is Triton's config.
    """
    alive = {stub.pid for stub in now if stub.alive}
    lost = {stub.model for stub in before if stub.alive and stub.pid not in alive}
    return lost | {stub.model for stub in now if not stub.alive}


def backends(folder: Path) -> frozenset[str]:
    """Names of the backends whose instances are stubs: Python, and those written in it."""
    found = {"python"}
    with contextlib.suppress(OSError):
        found |= {entry.name for entry in folder.iterdir() if (entry / "model.py").is_file()}
    return frozenset(found)


def _named(process: psutil.Process, repository: Path) -> tuple[str, int, str] | None:
    """Model, version and instance of a running process; None when it is no stub of ours."""
    words = process.cmdline()
    is_relative = len(words) > 1 and not words[1].startswith("/")
    return parse(words, repository, folder=process.cwd() if is_relative else "/")


def _stub(process: psutil.Process, repository: Path, known: Stub | None) -> Stub | None:
    """One child of Triton as a stub; None when it is none."""
    started_s, status = process.create_time(), process.status()
    same = known if known is not None and known.started_s == started_s else None
    if status == psutil.STATUS_ZOMBIE:  # nothing of its command line is left
        if same is not None:
            return replace(same, alive=False, stopped=False)
        if process.name() != STUB[:_COMMAND_LENGTH]:
            return None
        return Stub(
            pid=process.pid, model="", version=0, instance="", started_s=started_s, alive=False
        )
    if same is None:
        named = _named(process, repository)
        if named is None:
            return None
        model, version, instance = named
        same = Stub(
            pid=process.pid, model=model, version=version, instance=instance, started_s=started_s
        )
    return replace(
        same,
        stopped=status == psutil.STATUS_STOPPED,
        resident_bytes=process.memory_info().rss,
    )
