"""What a fault is: how it comes, how it goes, and what it may cost."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from tests.chaos.world.world import World


class Cost(enum.Flag):
    """Which requests a fault may lose. Everything else that is lost breaks the promise."""

    NOTHING = 0
    SERVER = enum.auto()
    """Those in the dead server, and those that arrive until its next one has loaded."""
    STUB = enum.auto()
    """Those of the dead instance, until it is healed."""
    WAIT = enum.auto()
    """Those that wait beyond their deadline: in a stopped server, or for instances while a person's
    hand holds the controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. What ``inject`` must remember for ``repair`` it leaves in ``world.kept``.

    Attributes:
        lasts_s: between the injection and the repair.
    """

    name: ClassVar[str] = ""
    costs: ClassVar[Cost] = Cost.NOTHING
    ends_controller: ClassVar[bool] = False
    """Whether the controller may end: by our hand, or because the fence says so."""
    lasts_s: float = 2.0

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """One with parameters by chance."""
        return cls()

    def inject(self, world: World) -> None:
        """Make it happen."""

    def repair(self, world: World) -> None:
        """Take it away, as an operator or the machine would."""

    def verify(self, world: World) -> Iterator[str]:
        """What else it broke, in words; asked after the repair."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A fault's place in the plan.

    Attributes:
        number: from 1.
        at_s: not before this time of the run.
        fault: what.
    """

    number: int
    at_s: float
    fault: Fault
