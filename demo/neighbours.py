"""What other work took of the CPUs during a run: judged before its outcome is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil

from perf.bench.control.real import busy_between

DISTURBED = 0.1
"""Share of the machine; two cores at this leave a fifth of one to others."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Generic[T]):
    """One try of an act.

    Attributes:
        result: what it came to.
        others: share (0 to 1) of the machine's CPUs that others used meanwhile.
    """

    result: T
    others: float

    @property
    def disturbed(self) -> bool:
        """Whether others used too much for its figures to speak of the contenders."""
        return self.others > DISTURBED


class Neighbours:
    """What everybody else takes of the CPUs, from its making on."""

    def __init__(self) -> None:
        """Begin now."""
        self._begun_s, self._machine, self._own_s = time.monotonic(), psutil.cpu_times(), _own_s()

    def share(self) -> float:
        """Of the machine's CPUs, 0 to 1, since the beginning."""
        span_s = (time.monotonic() - self._begun_s) * (psutil.cpu_count() or 1)
        if span_s <= 0.0:
            return 0.0
        busy = busy_between(self._machine, psutil.cpu_times())
        return min(1.0, max(0.0, busy - (_own_s() - self._own_s) / span_s))


def attempt(play: Callable[[], T]) -> Attempt[T]:
    """Play it, and say what others used meanwhile."""
    neighbours = Neighbours()
    result = play()
    return Attempt(result=result, others=neighbours.share())


def chosen(attempts: list[Attempt[T]]) -> Attempt[T]:
    """The one that counts: where others used least, whatever it came to."""
    return min(attempts, key=lambda one: one.others)


def _own_s() -> float:
    """CPU seconds of this process and all below it, also of those that have ended."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.Error:  # it has just ended: its parent has its time
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total
