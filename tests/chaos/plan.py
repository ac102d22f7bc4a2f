"""Which faults come when: a pure function of the seed. A longer plan begins as a shorter one."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from conch.errors import ConfigError
from tests.chaos.fault import Step
from tests.chaos.faults import KINDS

FIRST_S = 5.0
"""The load runs and the controller has looked by then."""
PAUSE_S = (4.0, 10.0)


def plan(seed: int, seconds: float, *, only: Collection[str] = ()) -> tuple[Step, ...]:
    """The faults of a run, in a new order each time that all of them have come.

    Args:
        seed: of the order, the pauses and the parameters.
        seconds: no fault begins after this.
        only: names of the faults to draw from; all when empty.

    Raises:
        ConfigError: for a name that is not known.
    """
    for name in only:
        if name not in KINDS:
            raise ConfigError(
                f"fault: {name!r}, known are: {', '.join(KINDS)}.", hint="See --list."
            )
    random = Random(seed)
    names = [name for name in KINDS if not only or name in only]
    steps: list[Step] = []
    at_s = FIRST_S
    while True:
        random.shuffle(names)
        for name in names:
            fault = KINDS[name].drawn(random)
            if at_s >= seconds:
                return tuple(steps)
            steps.append(Step(number=len(steps) + 1, at_s=at_s, fault=fault))
            at_s += fault.lasts_s + random.uniform(*PAUSE_S)
