"""A control loop that runs until something came true."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from control import life
from control.loop import ControlLoop
from control.tick import Tick


def ticks_until(
    loop: ControlLoop,
    came_true: Callable[[list[Tick]], bool],
    *,
    tick_s: float,
    at_most_s: float,
) -> list[Tick]:
    """The ticks until it did; fails when it did not in time."""
    stop, ticks = threading.Event(), list[Tick]()

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if came_true(ticks):
            stop.set()

    life.run(loop, tick_s=tick_s, stop=stop, duration_s=at_most_s, on_tick=saw)
    told = Counter((t.decision.reason.name, t.decision.clamps) for t in ticks)
    assert stop.is_set(), f"not in {at_most_s:g} s: {told}"
    return ticks
