"""Run stages in the order of their dependencies, as many at once as there are workers.

What is finished already is not run again. A stage that fails takes those after it with it, and no
others: they get the same error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import structlog

from conch.errors import ConchError, ParityError
from export.progress import Progress, Silent
from export.store import Finished, Store
from export.tasks import Task
from export.worker import Pool, StageFailed, summary

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One unit of work and caching.

    Attributes:
        key: content key of its result.
        kind: ``load``, ``build``, ``compare`` or ``measure``.
        label: what people read.
        variant: the variant it was first planned for; empty when it is for all.
        parents: keys of the stages whose results it reads.
        task: the work.
    """

    key: str
    kind: str
    label: str
    variant: str
    parents: tuple[str, ...]
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a stage: a result or an error."""

    stage: Stage
    finished: Finished | None = None
    error: ConchError | None = None
    cached: bool = False


class Engine:
    """Runs stages of one export.

    Args:
        store: where results are.
        pool: where work is done.
        progress: told of each stage.
        total: number of stages of the whole run, for the progress.
    """

    def __init__(self, store: Store, pool: Pool, progress: Progress | None, *, total: int) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._store = store
        self._pool = pool
        self._progress = progress or Silent()
        self._total = total
        self._index = 0
        self._numbers: dict[str, int] = {}

    def run(self, stages: Sequence[Stage]) -> None:
        """Run these, parents before children; the results are in ``outcomes`` by key.

        Raises:
            OSError: when the disk refused; what is finished stays.
        """
        waiting = [stage for stage in stages if stage.key not in self.outcomes]
        running: dict[Future[Finished], Stage] = {}
        while waiting or running:
            for stage in [stage for stage in waiting if self._settled(stage)]:
                if self._settle_without_work(stage):
                    waiting.remove(stage)
                elif len(running) < self._pool.jobs:
                    waiting.remove(stage)
                    self._started(stage)
                    running[self._submitted(stage)] = stage
            if not running:
                if not any(self._settled(stage) for stage in waiting) and waiting:
                    raise AssertionError("stages that wait for each other")
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(_is_broken(future) for future in done):
                self._one_by_one(running)
                running.clear()
                continue
            for future in done:
                self._finished(running.pop(future), future)

    @contextlib.contextmanager
    def phase(self, label: str) -> Iterator[list[str]]:
        """Show the body as one more stage; the list it gets takes notes for its end."""
        self._index += 1
        index = self._index
        notes: list[str] = []
        self._progress.started(index, self._total, label)
        start = time.perf_counter()
        try:
            yield notes
        finally:
            self._progress.finished(
                index, self._total, label, time.perf_counter() - start, "; ".join(notes)
            )

    def advanced(self, key: str, done: int, total: int, note: str) -> None:
        """A worker tells how far a stage is."""
        if key in self._numbers:
            self._progress.advanced(self._numbers[key], done, total, note)

    def _settled(self, stage: Stage) -> bool:
        """Whether all that the stage needs has come to an end."""
        return all(parent in self.outcomes for parent in stage.parents)

    def _settle_without_work(self, stage: Stage) -> bool:
        """Take a finished result, or the error of a parent."""
        for parent in stage.parents:
            if (error := self.outcomes[parent].error) is not None:
                self.outcomes[stage.key] = Outcome(stage=stage, error=error)
                self._index += 1
                return True
        if (finished := self._store.get(stage.key)) is None:
            return False
        self.outcomes[stage.key] = Outcome(stage=stage, finished=finished, cached=True)
        self._started(stage)
        self._progress.finished(
            self._numbers[stage.key], self._total, stage.label, finished.seconds, "cached"
        )
        return True

    def _started(self, stage: Stage) -> None:
        """Tell it, with the stage's number."""
        self._index += 1
        self._numbers[stage.key] = self._index
        self._progress.started(self._index, self._total, stage.label)

    def _finished(self, stage: Stage, future: Future[Finished]) -> None:
        """Note what the worker gave; only the disk's errors concern every stage."""
        error = future.exception()
        if isinstance(error, OSError):
            raise error
        if error is not None:
            log.debug("stage.failed", stage=stage.label, exc_info=error)
        if error is not None and not isinstance(error, ConchError):
            error = _unexpected(stage, error)
        finished = None if error is not None else future.result()
        self.outcomes[stage.key] = Outcome(stage=stage, finished=finished, error=error)
        self._progress.finished(
            self._numbers[stage.key],
            self._total,
            stage.label,
            finished.seconds if finished else 0.0,
            f"failed: {error}" if error else "",
        )

    def _submitted(self, stage: Stage) -> Future[Finished]:
        """The stage's future; a broken one when a worker is found dead only now."""
        try:
            return self._pool.submit(stage.task, stage.key)
        except BrokenProcessPool as error:
            broken: Future[Finished] = Future()
            broken.set_exception(error)
            return broken

    def _one_by_one(self, running: Mapping[Future[Finished], Stage]) -> None:
        """A worker died: run what was in flight alone, to learn which stage it was.

        What had come to its end before is taken as it is.
        """
        self._pool.discard()
        for future, stage in running.items():
            if not future.done() or _is_broken(future):
                self._finished(stage, self._alone(stage))
            else:
                self._finished(stage, future)

    def _alone(self, stage: Stage) -> Future[Finished]:
        """The stage, finished already or run with nothing beside it."""
        if (finished := self._store.get(stage.key)) is not None:
            found: Future[Finished] = Future()
            found.set_result(finished)
            return found
        future = self._submitted(stage)
        if _is_broken(future):
            self._pool.discard()
            future = Future()
            future.set_exception(
                ParityError(
                    f"{stage.label}: the worker process died (crash or out of memory).",
                    hint="Run it again with --jobs 1; leave the variant out if it dies again.",
                )
            )
        return future


def _is_broken(future: Future[Finished]) -> bool:
    """Whether the worker died of it, or beside it; waits for its end."""
    return future.cancelled() or isinstance(future.exception(), BrokenProcessPool)


def _unexpected(stage: Stage, error: BaseException) -> ConchError:
    """The failure of one stage from whatever its tools raised."""
    told = ParityError(
        f"{stage.label}: {error if isinstance(error, StageFailed) else summary(error)}.",
        hint="Leave the variant out, or report it with the output of --debug.",
    )
    told.__cause__ = error
    return told
