"""Work whose trouble is its own: beside the ticks, or for one model of several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import structlog

from control.act.outcome import said
from control.lease import Fenced

log = structlog.get_logger()

T = TypeVar("T")
_STOP_S = 0.2


def begin(name: str, work: Callable[..., T], *args: Any, **arguments: Any) -> Future[T]:
    """Do the work in a daemon thread; its result, or its error, is the future's.

    A pool's threads are joined when Python ends, however long a server lets them hang.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work(*args, **arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # no thread is left: the work has failed like any other
        future.set_exception(error)
    return future


def waited_for(job: Future[T], stop: threading.Event | None) -> T | None:
    """What became of the work; None where ``stop`` was set before it ended."""
    while not wait([job], timeout=_STOP_S).done:
        if stop is not None and stop.is_set():
            return None
    return job.result()


def alone(model: str, event: str, work: Callable[[], object]) -> None:
    """Do something for one model; any error of it is logged, and costs the others nothing.

    Raises:
        Fenced: when another controller has taken over.
    """
    try:
        work()
    except Fenced:
        raise
    except Exception as error:
        log.error(event, model=model, error=said(error))
        log.debug(event, model=model, exc_info=True)
