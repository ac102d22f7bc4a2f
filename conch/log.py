"""Structured logs on stderr: ``noun.verb_past`` and key/values; JSON when stderr is no terminal."""

from __future__ import annotations

import logging
import sys

import structlog

from conch.terminal import clean


def configure(verbosity: int) -> None:
    """Set the log level (0 warnings, 1 info, 2 debug) and the format for this process."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    renderers: list[structlog.typing.Processor] = (
        [
            structlog.processors.format_exc_info,
            _clean,
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


def _clean(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The event with its text cleaned for a terminal; other values are shown by their repr."""
    return {key: clean(value) if isinstance(value, str) else value for key, value in event.items()}
