"""Progress of ``conch perf bench control``: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TimeRemainingColumn

from cli.output import echo
from conch.tables import LiteralColumn, literal_console
from conch.terminal import clean

if TYPE_CHECKING:
    from perf.bench.control.plan import Item, Plan
    from perf.bench.control.run import ControlRun
    from perf.replay import Progress as Seen


class Lines:
    """One line for each run that ended."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._lock = threading.Lock()

    def begins(self, item: Item) -> None:
        """Nothing is said of a run that begins."""

    def progress(self, item: Item, seen: Seen) -> None:
        """Nor of one under way."""

    def ended(self, item: Item, run: ControlRun | None, *, stored: bool) -> None:
        """What came of it."""
        with self._lock:
            self.done += 1
            self.note(f"[{self.done}/{self.total}] {name_of(item)}: {_outcome(run, stored)}")

    def note(self, text: str) -> None:
        """A line on stderr."""
        echo(text, err=True)


class Bars(Lines):
    """A bar for each run under way, above them the lines."""

    def __init__(self, total: int, bars: Progress) -> None:
        super().__init__(total)
        self.bars = bars
        self._tasks: dict[int, TaskID] = {}

    def begins(self, item: Item) -> None:
        """A new bar."""
        whole_s = item.scenario.trace.duration_s
        self._tasks[id(item)] = self.bars.add_task(name_of(item), total=whole_s)

    def progress(self, item: Item, seen: Seen) -> None:
        """Move the bar."""
        if item_task := self._tasks.get(id(item)):
            self.bars.update(item_task, completed=max(0.0, seen.at_s))

    def ended(self, item: Item, run: ControlRun | None, *, stored: bool) -> None:
        """The bar goes, a line comes."""
        task = self._tasks.pop(id(item), None)
        if task is not None:
            self.bars.remove_task(task)
        super().ended(item, run, stored=stored)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self.bars.console.print(clean(text))


@contextmanager
def progress_of(plan: Plan, *, simulated: bool) -> Iterator[Lines]:
    """Who tells the user; bars only on a terminal and for runs that take their time."""
    if simulated or not sys.stderr.isatty():
        yield Lines(len(plan.items))
        return
    bars = Progress(
        LiteralColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=literal_console(stderr=True),
    )
    with bars:
        yield Bars(len(plan.items), bars)


def name_of(item: Item) -> str:
    """A run as lines call it."""
    return f"{item.scenario.trace.name}, seed {item.scenario.seed}, {item.contender.label}"


def _outcome(run: ControlRun | None, stored: bool) -> str:
    """Its figures in a few words."""
    from perf import slo

    if run is None:
        return "did not run"
    attained = slo.slo_attainment(run.latency_s, run.slo_s)
    cost = slo.instance_seconds(run.paid, run.duration_s)
    text = f"{attained * 100:.2f} % within the SLO, {cost:,.0f} instance-s"
    if run.busy_fraction == run.busy_fraction:
        text += f", machine {run.busy_fraction * 100:.0f} % busy"
    if not run.valid:
        text += f"; NOT VALID: {run.invalid_reason}"
    return text + (" (stored)" if stored else "")
