"""The world under attack: a repository, ``conch serve``, ``conch control run``, and the load.

Here is also what a machine does by itself: a controller that has ended is started again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from conch import paths
from conch.errors import ConchError
from control import session
from serving import probe
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.endpoint import ENV_ADMIN_KEY, Endpoint
from serving.runtime.ports import free_ports
from tests.chaos.world import models, private_disk, processes
from tests.chaos.world.load import Load
from tests.chaos.world.models import MODELS
from tests.chaos.world.proxy import HONEST, Proxy
from tests.chaos.world.sampler import Sampler

START_S = 240.0
CONTROL_S = 90.0
STOP_S = 60.0
UNLOAD_S = 5.0
LONGEST_CONTROL = "3h"
NAME = "chaos"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there


class World:
    """Use it as a context manager: nothing of it is left afterwards."""

    def __init__(self, work: Path, *, seed: int, note: Callable[[str], None]) -> None:
        """Nothing runs yet; ``work`` is an empty folder of ours."""
        self.work, self.note, self.seed = work, note, seed
        self.root = work / "disk" / "repository"
        self.cache = work / "cache"
        self.kept: dict[str, Any] = {}
        self.owner_texts: dict[str, set[str]] = {name: set() for name in MODELS}
        self.controller: subprocess.Popen[bytes] | None = None
        self.controllers: list[subprocess.Popen[bytes]] = []
        self.shm_prefixes: set[str] = set()
        self.pids: set[tuple[int, float]] = set()
        self.triton_deaths_s: list[float] = []
        self.start_s = 0.0
        self.counted_s = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        """Everything, up to the first look of the controller."""
        self.on_own_disk = private_disk.mounted(self._stack, self.root.parent)
        self.root.mkdir(parents=True)
        models.publish(self.root)
        self.repository = Repository(self.root)
        for name in MODELS:
            self.owner_texts[name].add(self.repository.config_text(name))
        self._own_cache()
        self._ports = free_ports((0, 0, 0))
        self._stack.callback(lambda: self._ended("conch serve", self.serve))
        begun_s = time.monotonic()
        self._start_serve()
        self.start_s = time.monotonic() - begun_s
        self.proxy = Proxy(self.endpoint.metrics_url)
        self._stack.callback(self.proxy.close)
        self.load = Load(self.endpoint.grpc_url, self.seed)
        self._stack.callback(self.load.stop)
        self.load.pin(**{models.SLEEPY: models.CALM_RPS})  # what nobody controls yet must carry it
        self.load.start()
        (self.work / "policy.yaml").write_text(models.POLICY)
        self.start_controller()
        self._stack.callback(self._end_controllers)
        self.load.free()
        self.sampler = Sampler(self)
        self._stack.callback(self.sampler.stop)
        self.sampler.start()

    def _start_serve(self) -> None:
        """``conch serve`` on the ports of this run, until it says where it answers."""
        said = self.work / "serve.jsonl"
        said.unlink(missing_ok=True)
        http, grpc, metrics = (str(port) for port in self._ports)
        ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
        self.serve = self._conch(
            *("serve", "--repository", str(self.root), "--name", NAME, "--json"), *ports
        )
        if not processes.wait_until(self._is_up, START_S):
            raise RuntimeError(f"conch serve: not up ({processes.tail(self.log('serve'))})")
        self.endpoint = self.read_endpoint()

    def stop(self) -> None:
        """End everything, last things first."""
        self._stack.close()

    def log(self, who: str) -> Path:
        """Where a process writes its errors."""
        return self.work / f"{who}.log"

    @property
    def triton_log(self) -> Path:
        """Triton's own log."""
        return self.cache / "logs" / f"{NAME}.log"

    @property
    def journal(self) -> Path:
        """The controller's journal."""
        return session.journal_path(self.repository)

    def client(self, deadline_s: float = 10.0) -> TritonClient:
        """A client with the server's key; close it."""
        key = self.endpoint.admin_key
        return TritonClient(self.endpoint.grpc_url, admin_key=key, deadline_s=deadline_s)

    def read_endpoint(self) -> Endpoint:
        """As ``conch serve`` has written it down."""
        data = json.loads((self.cache / "run" / f"{NAME}.json").read_text())
        data.pop("pid_created_s")
        data["repository"] = Path(data["repository"])
        return Endpoint(**data)

    def triton(self) -> int | None:
        """Triton's pid, found below ``conch serve``; None while there is none."""
        found = processes.named(processes.below(self.serve.pid), processes.TRITON)
        for process in found:
            self._remember(process)
        return found[0].pid if found else None

    def stubs(self, model: str) -> list[int]:
        """The pids of a model's Python stubs."""
        found = processes.named(processes.below(self.serve.pid), processes.STUB)
        folder = f"/{model}/"
        mine = [p for p in found if any(folder in part for part in _line(p))]
        return sorted(process.pid for process in mine)

    def start_controller(
        self, *, failpoint: str = "", wait: bool = True
    ) -> subprocess.Popen[bytes]:
        """A new controller, which is *the* controller from now on."""
        ticks = self.work / "control.jsonl"
        size = ticks.stat().st_size if ticks.exists() else 0
        self.controller = self.another_controller(failpoint=failpoint)
        started = self.controller
        if wait:
            processes.wait_until(
                lambda: ticks.stat().st_size > size or started.poll() is not None, CONTROL_S
            )
        return started

    def another_controller(
        self, *, failpoint: str = "", who: str = "control"
    ) -> subprocess.Popen[bytes]:
        """One more; it may be refused."""
        arguments = ["control", "run", str(self.work / "policy.yaml"), "--jsonl"]
        arguments += ["--repository", str(self.root), "--url", self.endpoint.grpc_url]
        arguments += ["--metrics-url", self.proxy.url, "--duration", LONGEST_CONTROL]
        process = self._conch(*arguments, who=who, CONCH_FAILPOINT=failpoint)
        self.controllers.append(process)
        return process

    def controls(self) -> bool:
        """Whether the controller runs."""
        return self.controller is not None and self.controller.poll() is None

    def ensure_controller(self) -> bool:
        """What a supervisor does: start it again where it has ended. Gives whether it did."""
        if self.controls():
            return False
        self.start_controller()
        return True

    def end_controller(self, *, patience_s: float = STOP_S) -> float | None:
        """SIGINT; gives the seconds that it took, None where it had to be killed."""
        if self.controller is None:
            return 0.0
        return processes.end(self.controller, patience_s=patience_s)

    def instances(self) -> int | None:
        """Of ``sleepy``, on disk."""
        samples = self.sampler.since(time.monotonic() - 1.0)
        return samples[-1].instances(models.SLEEPY) if samples else None

    def calm(self) -> None:
        """A load so low that ``sleepy`` has few instances: a rise makes the controller write."""
        self.load.pin(**{models.SLEEPY: models.CALM_RPS})
        if not processes.wait_until(lambda: (self.instances() or 9) <= 2, models.CALM_S):
            self.note(f"  {self.instances()} instances under a low load")

    def rise(self) -> None:
        """A load that needs all the instances that the policy allows."""
        self.load.pin(**{models.SLEEPY: models.STEADY_RPS})

    def ticks_since(self, at_s: float) -> int:
        """Looks that the controllers told of since then (seconds since the epoch)."""
        lines = (self.work / "control.jsonl").read_bytes().splitlines()[-4000:]
        count = 0
        for line in lines:
            try:
                count += json.loads(line)["decision"]["at_s"] >= at_s
            except (ValueError, KeyError, TypeError):
                continue
        return count

    def mend(self) -> None:
        """After a broken promise: bring everything back, so that the next fault stands alone."""
        self.proxy.lie(HONEST)
        self.load.free()
        self.end_controller(patience_s=15)
        if not all(self._loads(name) for name in MODELS):
            self.note("  mend: conch serve is started again")
            self._ended("conch serve", self.serve)
            self._start_serve()
        self.start_controller()

    def _loads(self, name: str) -> bool:
        """Whether the model answers after it was unloaded and loaded."""
        try:
            with self.client(30.0) as client:
                with suppress(ConchError):  # with a dead stub it stays UNLOADING, and yet it heals
                    client.unload(name, deadline_s=UNLOAD_S)
                client.load(name)
                probe.probe(client, client.config(name))
        except ConchError as error:
            self.note(f"  mend {name}: {error.message[:150]}")
            return False
        return True

    def _own_cache(self) -> None:
        """A cache home of its own, with links to what was unpacked: logs are attacked."""
        self.cache.mkdir()
        known = paths.cache_dir()
        for path in known.iterdir() if known.is_dir() else ():
            if path.name not in ("run", "logs"):
                (self.cache / path.name).symlink_to(path)

    def _is_up(self) -> bool:
        """Whether ``conch serve`` has said where it answers."""
        if self.serve.poll() is not None:
            raise RuntimeError(f"conch serve: ended ({processes.tail(self.log('serve'))})")
        return (self.work / "serve.jsonl").stat().st_size > 0

    def _conch(self, *arguments: str, who: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """A command whose processes are remembered."""
        who = who or arguments[0]
        if key := getattr(getattr(self, "endpoint", None), "admin_key", None):
            environment[ENV_ADMIN_KEY] = key
        process = processes.conch(
            *arguments,
            environment={"CONCH_CACHE": str(self.cache), **environment},
            out=self.work / f"{who}.jsonl",
            log=self.log(who),
        )
        self._remember(psutil.Process(process.pid))
        return process

    def _remember(self, process: psutil.Process) -> None:
        """Note a process, and what its shared memory is called."""
        try:
            self.pids.add((process.pid, process.create_time()))
            for part in process.cmdline():
                name, _, prefix = part.partition("shm-region-prefix-name=")
                if name == "python," and prefix:
                    self.shm_prefixes.add(prefix)
        except psutil.Error:
            return

    def _end_controllers(self) -> None:
        """Every controller that was started."""
        for process in self.controllers:
            if process.poll() is None:
                self._ended("conch control run", process)

    def _ended(self, what: str, process: subprocess.Popen[bytes]) -> None:
        """End one, and say so when it did not want to."""
        for child in processes.below(process.pid):
            self._remember(child)
            processes.send(child.pid, signal.SIGCONT)
        if processes.end(process, patience_s=STOP_S) is None:
            self.note(f"{what}: had to be killed")

    def left(self) -> list[str]:
        """What is left of it after ``stop``: processes, shared memory, temporary files."""
        found = []
        for pid, created_s in self.pids:
            try:
                process = psutil.Process(pid)
                if process.create_time() == created_s:
                    found.append(f"process {pid}: {' '.join(process.cmdline())[:80]}")
                    process.kill()
            except psutil.Error:
                continue
        for prefix in self.shm_prefixes:
            found += [str(path) for path in SHARED_MEMORY.glob(f"{prefix}*")]
        return found

    def temporary(self) -> list[str]:
        """Temporary files of ours in the repository."""
        folder = self.root / ".conch" / "tmp"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def remove(self) -> None:
        """The folder itself."""
        shutil.rmtree(self.work, ignore_errors=True)


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def in_thread(do: Callable[[], None]) -> threading.Thread:
    """Run it beside."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def replace(path: Path, data: bytes) -> None:
    """Write a file as a careful person's editor does: aside, then in its place."""
    aside = path.parent.parent / f".{path.name}.{os.getpid()}"
    aside.write_bytes(data)
    aside.replace(path)
