"""A clock that never jumps: the wall clock when it was made, and from then on monotonic time.

Spans between looks, cooldowns and blocks are differences of it, so that a wall clock that is set
while control runs makes no second longer or shorter. What people do at a time of day, such as a
freeze, is compared with the real wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from control.watch.sources import CounterSource, Sample


class SteadyClock:
    """Seconds since the epoch, by the wall clock of the start."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin now."""
        self._wall, self._monotonic = wall, monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._monotonic() + self._offset_s

    def steady(self, wall_s: float) -> float:
        """A time by the wall clock of now, by this one."""
        return wall_s + self() - self._wall()


class OnClock:
    """A source whose samples are stamped by the wall clock, on a steady clock.

    A wall clock that was set moves both the stamp and the difference, so that the span between two
    samples stays what it was.
    """

    def __init__(self, source: CounterSource, clock: SteadyClock) -> None:
        """Ask this source."""
        self._source, self._clock = source, clock
        self._last: dict[str, tuple[float, float]] = {}

    def sample(self, models: Collection[str]) -> Sample:
        """The newest counters; as the source's own. One stamp is always the same time."""
        found = self._source.sample(models)
        at_s: dict[str, float] = {}
        for name, stamp_s in found.at_s.items():
            known = self._last.get(name)
            if known is None or known[0] != stamp_s:
                self._last[name] = known = (stamp_s, self._clock.steady(stamp_s))
            at_s[name] = known[1]
        return replace(found, at_s=at_s)
