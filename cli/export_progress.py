"""How ``conch export run`` shows its stages: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TimeElapsedColumn
from rich.text import Text

from conch.tables import LiteralColumn, literal_console
from conch.terminal import clean


class StageLines:
    """Stages on stderr, which leaves stdout to data; several may run at once."""

    def __init__(self) -> None:
        self._console = literal_console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            LiteralColumn("{task.description}"),
            BarColumn(bar_width=20),
            LiteralColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def started(self, index: int, total: int, stage: str) -> None:
        """Say what begins."""
        line = f"[{index}/{total}] {clean(stage)}"
        if self._console.is_terminal:
            self._tasks[index] = self._bars.add_task(line, total=None, note="")
        else:
            self._console.print(f"{line} ...", soft_wrap=True)

    def advanced(self, index: int, done: int, total: int, note: str) -> None:
        """Move the stage's bar."""
        if (bar := self._tasks.get(index)) is not None:
            with contextlib.suppress(KeyError):  # the stage ended between the two lines
                self._bars.update(bar, completed=done, total=total, note=note)

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """Say how long it took."""
        if index in self._tasks:
            self._bars.remove_task(self._tasks.pop(index))
        if note == "cached":
            told = Text(note)
        elif note.startswith("failed"):
            told = Text(clean(note), style="red")
        else:
            told = Text(f"{seconds:.1f} s" + (f" ({clean(note)})" if note else ""))
        line = Text.assemble(f"[{index}/{total}] {clean(stage)}: ", told)
        self._console.print(line, soft_wrap=True)
