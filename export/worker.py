"""Worker processes: where stages run, so that a crash, a leak or a thread pool stays theirs.

The process pool is the standard library's. A worker dies with its parent: a run that was killed
leaves nothing behind that still writes.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING

import psutil

from export.session import available_cores
from export.store import Finished, Store

if TYPE_CHECKING:
    from export.tasks import Job, Task

Advance = Callable[[str, int, int, str], None]
"""Key of a stage, done, total, note."""

WORKER_BYTES = 3 * 2**30
"""Memory that one worker is reckoned to need: torch, a model of a few hundred MB, calibration."""

_PR_SET_PDEATHSIG = 1
_TELL_EVERY_S = 0.2


def jobs_here(wanted: int | None = None) -> int:
    """How many workers this machine's cores and free memory bear; at least 1."""
    by_memory = int(psutil.virtual_memory().available // WORKER_BYTES)
    return max(1, wanted or min(available_cores(), by_memory))


class Pool:
    """Worker processes for the stages of one run, started with the first stage.

    Args:
        job: what all stages share.
        jobs: how many run at once; each gets its share of the cores.
        advance: told how far long stages are, from a thread of its own.
    """

    def __init__(self, job: Job, *, jobs: int, advance: Advance) -> None:
        self.jobs = jobs
        self._job = job
        self._advance = advance
        self._context = multiprocessing.get_context("spawn")
        self._told: SimpleQueue[tuple[str, int, int, str] | None] = self._context.SimpleQueue()
        self._listener: threading.Thread | None = None
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, task: Task, key: str) -> Future[Finished]:
        """Run the task in a worker and keep its result under the key."""
        if self._listener is None:
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.jobs,
                mp_context=self._context,
                initializer=_start,
                initargs=(
                    self._job,
                    max(1, available_cores() // self.jobs),
                    self._told,
                    os.getpid(),
                ),
            )
        return self._pool.submit(_execute, task, key)

    def discard(self) -> None:
        """Forget workers of which one died; the next stage gets new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def close(self, *, at_once: bool) -> None:
        """End the workers.

        Args:
            at_once: also in the middle of a stage; unfinished stages leave no result.
        """
        if self._pool is not None:
            if at_once:
                for process in list((self._pool._processes or {}).values()):
                    process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._listener is not None:
            self._told.put(None)
            self._listener.join(5)
        self._told.close()

    def _listen(self) -> None:
        """Pass on what workers tell."""
        while (told := self._told.get()) is not None:
            self._advance(*told)


class _Worker:
    """This process, when it is a worker."""

    job: Job
    told: SimpleQueue[tuple[str, int, int, str] | None]
    bench: object = None


def _start(
    job: Job,
    threads: int,
    told: SimpleQueue[tuple[str, int, int, str] | None],
    parent: int,
) -> None:
    """Become a worker: die with the parent, take a share of the cores, keep quiet."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was said
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    os.environ["NNCF_CI"] = "1"  # no telemetry
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    _Worker.job, _Worker.told = job, told


def _execute(task: Task, key: str) -> Finished:
    """Run one stage and keep its result."""
    from export.source import seed_everything
    from export.tasks import Bench

    if not isinstance(_Worker.bench, Bench):
        _Worker.bench = Bench(_Worker.job, _silent)
    bench = _Worker.bench
    bench.tell = _Teller(key, _Worker.told)
    store = Store(_Worker.job.stages)
    bench.folder, bench.scratch = store.begin(key)
    seed_everything(_Worker.job.recipe.seed)
    start = time.perf_counter()
    artifact = task.run(bench)
    return store.finish(key, artifact, folder=bench.folder, seconds=time.perf_counter() - start)


def _silent(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


class _Teller:
    """Sends progress to the parent, not more often than a person can read."""

    def __init__(self, key: str, told: SimpleQueue[tuple[str, int, int, str] | None]) -> None:
        self._key = key
        self._told = told
        self._next = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Tell it now, or not at all."""
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + _TELL_EVERY_S
            self._told.put((self._key, done, total, note))


__all__ = ["WORKER_BYTES", "Advance", "Pool", "jobs_here"]
