"""What other work took of the CPUs during a run: judged before its outcome is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil

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
    """The CPU seconds of everybody else, from its making on."""

    def __init__(self) -> None:
        """Begin now."""
        self._begun_s, self._others_s = time.monotonic(), _others_s()

    def share(self) -> float:
        """Of the machine's CPUs, 0 to 1, since the beginning."""
        span_s = (time.monotonic() - self._begun_s) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (_others_s() - self._others_s) / span_s)) if span_s > 0 else 0.0


def attempt(play: Callable[[], T]) -> Attempt[T]:
    """Play it, and say what others used meanwhile."""
    neighbours = Neighbours()
    result = play()
    return Attempt(result=result, others=neighbours.share())


def chosen(attempts: list[Attempt[T]]) -> Attempt[T]:
    """The one that counts: where others used least, whatever it came to."""
    return min(attempts, key=lambda one: one.others)


def _others_s() -> float:
    """CPU seconds of the machine that are neither idle nor of our own processes."""
    cpu = psutil.cpu_times()
    idle_s = cpu.idle + getattr(cpu, "iowait", 0.0)
    guests_s = getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0)  # within user
    return float(sum(cpu)) - idle_s - guests_s - _own_s()


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
