"""The machine that the server runs on: how busy it is, how much memory is left, what a copy takes.

Looked at by psutil where the server is local, else as far as Triton's own gauges tell.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from serving import model_config
from serving.metrics import Snapshot
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.runtime.stubs import STUB

COPIES_OF_FILES = 2
"""A loaded model is taken to be twice as large as its files: weights, and what they work in."""
_LOOK_AGAIN_S = 30.0
_LEAST_CPU_S = 0.1
_UNLOADED_S = 5.0
"""Processes of another version are gone so long after its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How busy a device is; None where it is not known.

    Attributes:
        busy_fraction: 0 to 1.
        memory_free_bytes: what is left.
    """

    busy_fraction: float | None = None
    memory_free_bytes: int | None = None


class Machine:
    """The machine of one server."""

    def __init__(
        self, *, pid: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at the server with this process, or one above it; None for one elsewhere."""
        self._pid = pid
        self._clock = clock
        self._times = _times() if pid is not None else (0.0, 0.0)
        self._busy: float | None = None
        self._stubs: dict[str, int] = {}
        self._pids: dict[str, tuple[int, ...]] = {}
        self._used_s: dict[int, float] = {}
        self._cpu_s: dict[str, float] = {}
        self._stubs_at_s: float | None = None
        self._files: dict[tuple[str, tuple[int, ...]], int] = {}
        self._alone: dict[str, tuple[int, float]] = {}
        self._measured: dict[tuple[str, int], int] = {}

    def use(self, snapshot: Snapshot | None) -> Use:
        """Of the whole machine; its CPU since the last call."""
        if self._pid is not None:
            now = _times()
            busy, total = now[0] - self._times[0], now[1] - self._times[1]
            if total >= _LEAST_CPU_S:  # the kernel counts in hundredths of a second
                self._times, self._busy = now, min(1.0, max(0.0, busy / total))
            return Use(
                busy_fraction=self._busy,
                memory_free_bytes=int(psutil.virtual_memory().available),
            )
        host = snapshot.host if snapshot else None
        if host is None:
            return Use()
        return Use(busy_fraction=host.busy_fraction, memory_free_bytes=host.memory_free_bytes)

    def copy_bytes(
        self, model: str, config: ModelConfig, repository: Repository | None, versions: list[int]
    ) -> int | None:
        """What one more instance is expected to take; None where nothing is known.

        The resident memory of the largest stub process of the model, shared pages included, where
        the server is local, its backend has processes, and they work on the CPU; else twice the
        size of the files of its newest version.
        """
        if seen := self._stubs_of(model, config):
            return max(seen)
        if repository is None or not versions:
            return None
        key = (model, tuple(versions))
        if key not in self._files:
            self._files[key] = _size(repository.root / model / str(versions[-1]))
        return COPIES_OF_FILES * self._files[key]

    def version_bytes(
        self, model: str, config: ModelConfig, repository: Repository | None, versions: list[int]
    ) -> dict[int, int]:
        """What one instance of each version is expected to take; empty for a single version.

        As ``copy_bytes``. Processes do not tell of which version they are: a size is that of the
        version that has been alone in memory since well before they were looked up.
        """
        if repository is None or len(versions) < 2:
            return {}
        loaded = model_config.named_versions(config) or versions[-1:]
        version, now_s = loaded[-1], self._clock()
        since_s = now_s
        if len(loaded) == 1:
            known = self._alone.get(model)
            since_s = known[1] if known and known[0] == version else now_s
            self._alone[model] = (version, since_s)
        else:
            self._alone.pop(model, None)
        seen = self._stubs_of(model, config)
        if seen and self._stubs_at_s is not None and self._stubs_at_s >= since_s + _UNLOADED_S:
            self._measured[model, version] = max(seen)
        sizes = {}
        for number in versions:
            key = (model, (number,))
            if key not in self._files:
                self._files[key] = _size(repository.root / model / str(number))
            sizes[number] = self._measured.get((model, number), COPIES_OF_FILES * self._files[key])
        return sizes

    def cpu_s(self, model: str, config: ModelConfig) -> float | None:
        """CPU seconds that the model's own processes have used while they were watched.

        None where they cannot be seen: a server elsewhere, or a backend without processes; and
        where those that are known are not one an instance: a reload replaced them, so they are
        looked up anew. 0 for a model on GPUs, whatever its processes do meanwhile: it waits for the
        device.
        """
        groups = config.instance_group
        if groups and all(group.kind == ModelInstanceGroup.KIND_GPU for group in groups):
            return 0.0
        names = _group_names(model, config)
        self._stub_sizes()
        mine = [pid for stub, pids in self._pids.items() if _group(stub) in names for pid in pids]
        if not mine:
            return None
        used = {pid: used_s for pid in mine if (used_s := _used_s(pid)) is not None}
        if len(used) != model_config.instance_count(config):
            self._stubs_at_s = None
            return None
        more_s = sum(max(0.0, now_s - self._used_s.get(pid, now_s)) for pid, now_s in used.items())
        self._used_s.update(used)
        self._cpu_s[model] = self._cpu_s.get(model, 0.0) + more_s
        return self._cpu_s[model]

    def _stubs_of(self, model: str, config: ModelConfig) -> list[int]:
        """Resident bytes of the model's processes; none on a GPU, whose memory they do not tell."""
        if any(group.kind == ModelInstanceGroup.KIND_GPU for group in config.instance_group):
            return []
        names = _group_names(model, config)
        return [size for stub, size in self._stub_sizes().items() if _group(stub) in names]

    def _stub_sizes(self) -> Mapping[str, int]:
        """Resident bytes by the stub's instance name; looked up twice a minute, as it costs ms."""
        now_s = self._clock()
        due = self._stubs_at_s is None or now_s - self._stubs_at_s >= _LOOK_AGAIN_S
        if self._pid is not None and due:
            found = stub_processes(self._pid)
            self._stubs_at_s = now_s
            self._stubs = {name: max(pids.values()) for name, pids in found.items()}
            self._pids = {name: tuple(pids) for name, pids in found.items()}
            kept = {pid for pids in self._pids.values() for pid in pids}
            self._used_s = {pid: used_s for pid, used_s in self._used_s.items() if pid in kept}
        return self._stubs


def gpu_use(model: str, snapshot: Snapshot | None) -> Use:
    """Of the busiest GPU that the model answers on, and the memory of the fullest."""
    if snapshot is None:
        return Use()
    uuids = snapshot.gpus_of.get(model, frozenset())
    gpus = [snapshot.gpus[uuid] for uuid in uuids if uuid in snapshot.gpus]
    free = [gpu.memory_free_bytes for gpu in gpus if gpu.memory_free_bytes is not None]
    return Use(
        busy_fraction=max((gpu.busy_fraction for gpu in gpus), default=None),
        memory_free_bytes=min(free, default=None),
    )


def stub_processes(pid: int) -> dict[str, dict[int, int]]:
    """Resident bytes of the Python stubs below a process: by instance name, then by pid."""
    found: dict[str, dict[int, int]] = {}
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return found
    for child in children:
        try:
            words = child.cmdline()
            if words and Path(words[0]).name == STUB and len(words) > 2:
                # The arguments end with: ... <instance name> <runtime model directory or DEFAULT>
                found.setdefault(words[-2], {})[child.pid] = int(child.memory_info().rss)
        except psutil.Error:  # it ended while we looked
            continue
    return found


def _group_names(model: str, config: ModelConfig) -> list[str]:
    """Names of the model's instance groups, as Triton makes them up where there is none."""
    return [group.name for group in config.instance_group if group.name] or [f"{model}_0"]


def _group(stub: str) -> str:
    """The instance group of a stub: its name without the number of the instance."""
    return re.sub(r"_\d+$", "", stub)


def _used_s(pid: int) -> float | None:
    """CPU seconds of a process; None for one that ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    found = 0
    with contextlib.suppress(OSError):  # closed to us, or gone meanwhile
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                found += path.stat().st_size if path.is_file() else 0
    return found


def _times() -> tuple[float, float]:
    """(busy, total) seconds of all cores since boot."""
    times = psutil.cpu_times()
    # guest times are in user and nice already
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total
