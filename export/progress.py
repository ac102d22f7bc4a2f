"""How a run tells what it is at: a Protocol, so that the CLI, the demo and tests each show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of each stage of a run; several may run at once."""

    def started(self, index: int, total: int, stage: str) -> None:
        """Stage ``index`` (from 1) of ``total`` begins."""

    def advanced(self, index: int, done: int, total: int, note: str) -> None:
        """Stage ``index`` has done so much of its work; called from another thread."""

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """The stage is over, after ``seconds``; ``note`` says what is worth knowing, or nothing.

        ``cached`` is the note of a stage that was not run: ``seconds`` is what it once took.
        """


class Silent:
    """Shows nothing."""

    def started(self, index: int, total: int, stage: str) -> None:
        """Nothing."""

    def advanced(self, index: int, done: int, total: int, note: str) -> None:
        """Nothing."""

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """Nothing."""
