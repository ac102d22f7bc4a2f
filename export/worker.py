"""Worker processes: where stages run, so that a crash, a leak or a thread pool stays theirs.

The process pool is the standard library's. A worker dies with its parent: a run that was killed
leaves nothing behind that still writes. Of what stages raise, only errors of Conch and refusals of
the disk come back as they are: a class of the user's own cannot be read outside its worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import structlog

from conch.errors import ConchError
from export.session import available_cores
from export.store import Finished, Store

if TYPE_CHECKING:
    from export.steps import Artifact
    from export.tasks import Bench, Job, Task

log = structlog.get_logger()

Advance = Callable[[str, int, int, str], None]
"""Key of a stage, done, total, note."""

WORKER_BYTES = 3 * 2**30
"""Memory that one worker is reckoned to need: torch, a model of a few hundred MB, calibration."""

_PR_SET_PDEATHSIG = 1
_TELL_EVERY_S = 0.2
_OWN = ("conch.", "export.", "serving.")
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What a disk says that refuses every other stage, too."""


class StageFailed(Exception):
    """What a stage raised, as a line of text: ``<type>: <first line>``.

    Its cause holds the traceback in the worker, as text.
    """


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
        self._pool: ProcessPoolExecutor | None = None
        self._telling: Connection | None = None
        self._listener: threading.Thread | None = None

    def submit(self, task: Task, key: str) -> Future[Finished]:
        """Run the task in a worker and keep its result under the key.

        Raises:
            BrokenProcessPool: when a worker has died; ``discard`` makes room for new ones.
        """
        if self._pool is None:
            listening, self._telling = self._context.Pipe(duplex=False)
            self._listener = threading.Thread(target=self._listen, args=(listening,), daemon=True)
            self._listener.start()
            self._pool = ProcessPoolExecutor(
                self.jobs,
                mp_context=self._context,
                initializer=_start,
                initargs=(
                    self._job,
                    max(1, available_cores() // self.jobs),
                    (self._telling, self._context.Lock()),
                    os.getpid(),
                ),
            )
        return self._pool.submit(_execute, task, key)

    def discard(self) -> None:
        """Forget workers of which one died; the next stage gets new ones.

        So are the pipe and its lock new, which a worker that was killed may have kept.
        """
        self._end()

    def close(self, *, at_once: bool) -> None:
        """End the workers.

        Args:
            at_once: also in the middle of a stage; unfinished stages leave no result.
        """
        if self._pool is not None and at_once:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._end()

    def _end(self) -> None:
        """Wait for the workers, then for the last that they told."""
        if self._pool is None or self._telling is None or self._listener is None:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._telling.close()  # the last writer: the listener comes to the end
        self._listener.join(5)
        self._pool = self._telling = self._listener = None

    def _listen(self, listening: Connection) -> None:
        """Pass on what workers tell, until none is left; workers wait when nobody listens."""
        with listening:
            while True:
                try:
                    told = listening.recv()
                except (EOFError, OSError):
                    return
                try:
                    self._advance(*told)
                except Exception as error:
                    log.debug("progress.refused", exc_info=error)


class _Worker:
    """This process, when it is a worker."""

    job: Job
    told: tuple[Connection, Lock]
    bench: Bench | None = None


def _start(job: Job, threads: int, told: tuple[Connection, Lock], parent: int) -> None:
    """Become a worker: die with the parent, take a share of the cores, keep quiet."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was said
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    os.dup2(2, 1)  # stdout is for data; what users and their tools print is not
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    os.environ["NNCF_CI"] = "1"  # no telemetry
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):
        # Else it makes a semaphore for many processes, which one that is ended leaves behind.
        importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())
    _Worker.job, _Worker.told = job, told


def _execute(task: Task, key: str) -> Finished:
    """Run one stage and keep its result.

    Raises:
        ConchError: of the stage.
        StageFailed: for anything else that the stage raised.
        OSError: when the disk refuses.
    """
    store = Store(_Worker.job.stages)
    folder, scratch = store.begin(key)
    start = time.perf_counter()
    with _portable_errors():
        artifact = _done(task, key, folder, scratch)
    seconds = time.perf_counter() - start
    with _portable_errors(but=OSError):  # ours: the folder is the store's
        return store.finish(key, artifact, folder=folder, seconds=seconds)


def _done(task: Task, key: str, folder: Path, scratch: Path) -> Artifact:
    """The stage's work, seeded."""
    from export.source import seed_everything
    from export.tasks import Bench

    if _Worker.bench is None:
        _Worker.bench = Bench(_Worker.job, _silent)
    bench = _Worker.bench
    bench.tell = _Teller(key, *_Worker.told)
    bench.folder, bench.scratch = folder, scratch
    seed_everything(_Worker.job.recipe.seed)
    return task.run(bench)


@contextlib.contextmanager
def _portable_errors(but: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
    """Raise what the body raises as ``portable`` gives it, except errors of the kind ``but``."""
    try:
        yield
    except but:
        raise
    except BaseException as error:
        told = portable(error)
        if told is error:
            raise
        raise told from error


def portable(error: BaseException) -> Exception:
    """The error as every process can read it: of Conch, of the disk, or a line of text."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return OSError(cause.errno, cause.strerror, cause.filename)
        cause = cause.__cause__
    if isinstance(error, ConchError):
        kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith(_OWN)]
        if kinds[0] is type(error):
            return error
        kind: type[ConchError] = kinds[0] if issubclass(kinds[0], ConchError) else ConchError
        return kind(error.message, hint=error.hint)
    return StageFailed(summary(error))


def summary(error: BaseException) -> str:
    """Its type and the first line of what it says, without a full stop."""
    line = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _silent(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


class _Teller:
    """Sends progress to the parent, not more often than a person can read."""

    def __init__(self, key: str, telling: Connection, lock: Lock) -> None:
        self._key = key
        self._telling = telling
        self._lock = lock
        self._next = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Tell it now, or not at all."""
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + _TELL_EVERY_S
            with self._lock:
                self._telling.send((self._key, done, total, note))


__all__ = ["WORKER_BYTES", "Advance", "Pool", "StageFailed", "jobs_here", "portable", "summary"]
