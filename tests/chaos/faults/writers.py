"""Two who want to write: second controllers, and locks and epochs that are lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tests.chaos.fault import Fault
from tests.chaos.world.processes import end, send, wait_until
from tests.chaos.world.world import CONTROL_S, World

FENCED_S = 10.0
"""One that was overtaken ends within this, once it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondController(Fault):
    """A second controller is started while the first one runs: it must be refused."""

    name: ClassVar[str] = "second-controller"
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """Start it."""
        second = world.another_controller(who="second")
        wait_until(lambda: second.poll() is not None, CONTROL_S)
        world.kept["second"] = second.poll()
        end(second, patience_s=20.0)

    def verify(self, world: World) -> Iterator[str]:
        """It was refused, with an exit code that says so."""
        code = world.kept["second"]
        if code is None or code == 0:
            yield f"the second controller was let in (exit code {code})"
        elif code < 0 or not world.controls():
            yield f"exit code of the second {code}, the first runs: {world.controls()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockLost(Fault):
    """``control.lock`` is removed and another controller takes over: the first must end."""

    name: ClassVar[str] = "lock-lost"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """Remove, and start another."""
        first = world.controller
        _forget(world, "control.lock")
        world.kept["first"] = first
        world.start_controller()

    def verify(self, world: World) -> Iterator[str]:
        """The first has ended by itself."""
        yield from _one_left(world)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseForgotten(Fault):
    """A controller of the first epoch sleeps, lock and epoch are removed, another one starts."""

    name: ClassVar[str] = "lease-forgotten"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """The first is the first ever; then both files go while it sleeps."""
        world.end_controller()
        _forget(world, "control.epoch")
        first = world.start_controller()
        send(first.pid, signal.SIGSTOP)
        _forget(world, "control.lock", "control.epoch")
        world.kept["first"] = first
        world.start_controller()
        send(first.pid, signal.SIGCONT)

    def verify(self, world: World) -> Iterator[str]:
        """The first has ended by itself."""
        yield from _one_left(world)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLost(Fault):
    """``control.epoch`` is removed: nobody knows who may write, so the controller ends."""

    name: ClassVar[str] = "epoch-lost"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 6.0

    def inject(self, world: World) -> None:
        """Remove it."""
        _forget(world, "control.epoch")

    def repair(self, world: World) -> None:
        """A supervisor starts it again."""
        world.ensure_controller()


def _forget(world: World, *names: str) -> None:
    """Remove files of the state."""
    for name in names:
        (world.root / ".conch" / name).unlink(missing_ok=True)


def _one_left(world: World) -> Iterator[str]:
    """Of two controllers, the first has ended; if not, it is ended here."""
    first = world.kept["first"]
    since_s = time.time()
    if first is not None and not wait_until(lambda: first.poll() is not None, FENCED_S):
        yield (
            f"two controllers alive after {FENCED_S:.0f} s: {first.pid} was overtaken and goes on "
            f"({world.ticks_since(since_s)} ticks of both meanwhile)"
        )
        end(first, patience_s=20.0)
    if not world.controls():
        yield "the controller that took over has ended"


FAULTS = (SecondController, LockLost, LeaseForgotten, EpochLost)
