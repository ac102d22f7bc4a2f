"""Structured logs on stderr: ``noun.verb_past`` and key/values; JSON when stderr is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from conch.terminal import clean

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
"""What goes on is said again after these pauses: one line in 5 s at first, one in 5 min later."""


def configure(verbosity: int) -> None:
    """Set the log level (0 warnings, 1 info, 2 debug) and the format for this process."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    renderers: list[structlog.typing.Processor] = (
        [
            structlog.processors.format_exc_info,
            tame,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


@contextmanager
def into(path: Path) -> Iterator[None]:
    """While the block runs, this process's log goes into a file instead."""
    before = structlog.get_config()["logger_factory"]
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(logger_factory=structlog.WriteLoggerFactory(file))
        try:
            yield
        finally:
            structlog.configure(logger_factory=before)


def tame(
    _logger: Any, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    r"""The same fields, where no text can steer a terminal: a processor of structlog.

    Messages quote what servers and files say. Lines and tabs stay; JSON escapes all of it anyway.

    Example:
        >>> tame(None, "", {"error": "a\x1b[2Jb", "path": ["\x9b1m"], "seconds": 1.5})
        {'error': 'a\\x1b[2Jb', 'path': "['\\x9b1m']", 'seconds': 1.5}
    """
    return {clean(name): _tamed(value) for name, value in fields.items()}


def _tamed(value: Any) -> Any:
    """Numbers as they are; anything else as text that only shows."""
    return value if value is None or isinstance(value, bool | int | float) else clean(value)


@dataclass(slots=True)
class _Run:
    """Equal events in a row."""

    since_s: float
    said_s: float
    pause_s: float
    count: int = 1


class Repeated:
    """Says that something goes on: the first time, then ever more seldom, and when it is over.

    An outage of an hour at five ticks a second is 18,000 equal events; as lines they bury what
    else is to be read.

    Example:
        >>> outage = Repeated(structlog.get_logger())
        >>> outage.seen("triton.unreachable", key="minilm", error="no answer")  # doctest: +SKIP
        >>> outage.over("triton.reached", key="minilm")  # doctest: +SKIP
    """

    def __init__(self, logger: Any = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Say it to this logger; by the clock, in seconds."""
        self._log = logger if logger is not None else structlog.get_logger()
        self._clock = clock
        self._runs: dict[tuple[str, str], _Run] = {}

    def seen(self, event: str, *, key: str = "", level: str = "warning", **fields: Any) -> bool:
        """It was seen (again); gives whether that was said.

        Args:
            event: the line's event.
            key: what tells two runs of the same event apart, such as a model's name.
            level: the logger's method.
            fields: of the line; a later line has ``times`` and ``for_s`` beside them.
        """
        now_s = self._clock()
        run = self._runs.get((event, key))
        if run is None:
            self._runs[event, key] = _Run(now_s, now_s, FIRST_PAUSE_S)
            getattr(self._log, level)(event, **fields)
            return True
        run.count += 1
        if now_s - run.said_s < run.pause_s:
            return False
        run.said_s, run.pause_s = now_s, min(2 * run.pause_s, LONGEST_PAUSE_S)
        getattr(self._log, level)(
            event, **fields, times=run.count, for_s=round(now_s - run.since_s, 1)
        )
        return True

    def over(
        self, event: str, *, key: str = "", said: str = "", level: str = "warning", **fields: Any
    ) -> bool:
        """It is over; gives whether it had been seen, and says so with how often and how long.

        Args:
            event: the one that was ``seen``.
            key: of that.
            said: the line's event; ``<event>.over`` where it is empty.
            level: the logger's method.
            fields: of the line.
        """
        run = self._runs.pop((event, key), None)
        if run is None:
            return False
        getattr(self._log, level)(
            said or f"{event}.over",
            **fields,
            times=run.count,
            for_s=round(self._clock() - run.since_s, 1),
        )
        return True
