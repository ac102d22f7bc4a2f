"""How a run tells what it is at: a Protocol, so that the CLI, the demo and tests each show it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, MutableMapping
from typing import Protocol


class Progress(Protocol):
    """Told of each stage of a run; stages come one after the other."""

    def started(self, index: int, total: int, stage: str) -> None:
        """Stage ``index`` (from 1) of ``total`` begins."""

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """The stage is over, after ``seconds``; ``note`` says what is worth knowing, or nothing."""


class Silent:
    """Shows nothing."""

    def started(self, index: int, total: int, stage: str) -> None:
        """Nothing."""

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """Nothing."""


class Stages:
    """Counts and times the stages of one run."""

    def __init__(self, progress: Progress, total: int) -> None:
        """Stage numbers run from 1 to ``total``."""
        self._progress = progress
        self._total = total
        self._index = 0

    @contextlib.contextmanager
    def stage(
        self, label: str, *, key: str, seconds: MutableMapping[str, float]
    ) -> Iterator[list[str]]:
        """Run the body as one stage; the list it gets takes notes to show at its end.

        Args:
            label: what people read.
            key: where the time goes in ``seconds``.
            seconds: takes the time, also when the body raises.
        """
        self._index += 1
        index = self._index
        notes: list[str] = []
        self._progress.started(index, self._total, label)
        start = time.perf_counter()
        try:
            yield notes
        finally:
            spent = time.perf_counter() - start
            seconds[key] = seconds.get(key, 0.0) + spent
            self._progress.finished(index, self._total, label, spent, ", ".join(notes))
