"""Processes that die or stop: the controller, Triton, a stub."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from tests.chaos.fault import Cost, Fault
from tests.chaos.world.models import BURNER, SETTLE_S, SLEEPY, STEADY_INSTANCES
from tests.chaos.world.processes import send, wait_until
from tests.chaos.world.world import World

HEALED_S = 5.0
"""A dead stub is to be healed within this, and a loading time."""
END_S = 10.0
"""SIGINT ends a controller within this."""
SLACK_S = 5.0
"""For the machine, which does other things."""
POINTS = (
    "actuator.before_write",
    "repository.before_revision",
    "revision.text.temp_written",
    "revision.text.renamed",
    "revision.record.temp_written",
    "repository.config.temp_written",
    "repository.config.renamed",
    "actuator.before_load",
    "actuator.after_load",
    "actuator.after_probe",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KillController(Fault):
    """kill -9 of the controller, at any moment while the load rises."""

    name: ClassVar[str] = "kill-controller"
    ends_controller: ClassVar[bool] = True
    after_s: float = 0.5

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """After up to 2 s of a higher load."""
        return cls(after_s=round(random.uniform(0.0, 2.0), 2))

    def inject(self, world: World) -> None:
        """Raise the load, wait, kill."""
        world.calm()
        world.rise()
        time.sleep(self.after_s)
        if world.controller is not None:
            send(world.controller.pid, signal.SIGKILL)

    def repair(self, world: World) -> None:
        """Start the next one."""
        world.load.free()
        world.ensure_controller()


@dataclass(frozen=True, slots=True, kw_only=True)
class KillControllerAt(Fault):
    """kill -9 of the controller at a named place of a change."""

    name: ClassVar[str] = "kill-controller-at"
    ends_controller: ClassVar[bool] = True
    point: str = POINTS[0]
    lasts_s: float = 0.0

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """Any place."""
        return cls(point=random.choice(POINTS))

    def inject(self, world: World) -> None:
        """An armed controller, and a load that makes it change something."""
        world.calm()
        world.end_controller()
        armed = world.start_controller(failpoint=f"{self.point}=kill")
        world.rise()
        if not wait_until(lambda: armed.poll() is not None, 25.0):
            world.note(f"  {self.point} was not passed")
            world.end_controller()

    def repair(self, world: World) -> None:
        """Start the next one."""
        world.load.free()
        world.ensure_controller()


@dataclass(frozen=True, slots=True, kw_only=True)
class KillStub(Fault):
    """kill -9 of one Python stub of a model."""

    name: ClassVar[str] = "kill-stub"
    costs: ClassVar[Cost] = Cost.STUB
    model: str = SLEEPY
    index: int = 0
    lasts_s: float = 0.5

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """One of several instances, or the only one."""
        return cls(model=random.choice((SLEEPY, BURNER)), index=random.randrange(8))

    def inject(self, world: World) -> None:
        """Kill it, under a load that asks for no change: none may heal it by luck."""
        world.rise()
        wait_until(lambda: (world.instances() or 0) >= STEADY_INSTANCES, SETTLE_S)
        stubs = world.stubs(self.model)
        world.kept["killed_s"] = time.monotonic()
        if not stubs:
            world.note(f"  no stub of {self.model} was found")
            return
        send(stubs[self.index % len(stubs)], signal.SIGKILL)

    def verify(self, world: World) -> Iterator[str]:
        """Nothing of the model fails any more after 5 s and a loading time; with patience."""
        limit_s = HEALED_S + world.start_s + SLACK_S
        killed_s = world.kept["killed_s"]
        time.sleep(max(0.0, killed_s + limit_s + 3.0 - time.monotonic()))
        after = world.load.between(killed_s + limit_s, time.monotonic())
        world.load.free()
        failed = [a for a in after if a.model == self.model and a.error]
        if failed:
            yield (
                f"stub of {self.model} killed: {len(failed)} requests still failed "
                f"{limit_s:.0f} s later ({failed[-1].error[:90]})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KillTriton(Fault):
    """kill -9 of tritonserver; ``conch serve`` is to bring it back."""

    name: ClassVar[str] = "kill-triton"
    costs: ClassVar[Cost] = Cost.SERVER

    def inject(self, world: World) -> None:
        """Kill it."""
        world.triton_deaths_s.append(time.monotonic())
        send(world.triton(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class KillTritonNoLogs(KillTriton):
    """The same while the folder of its log is gone: an error of the restart is no reason to end."""

    name: ClassVar[str] = "kill-triton-no-logs"
    lasts_s: float = 8.0

    def inject(self, world: World) -> None:
        """Take the folder away, then kill."""
        shutil.rmtree(world.triton_log.parent, ignore_errors=True)
        KillTriton.inject(self, world)

    def repair(self, world: World) -> None:
        """The folder comes back."""
        world.triton_log.parent.mkdir(exist_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class KillTritonInChange(KillTriton):
    """The same while a change is between its file and its load."""

    name: ClassVar[str] = "kill-triton-in-change"
    after_s: float = 0.2

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """Up to 1.4 s after the file was written."""
        return cls(after_s=round(random.uniform(0.0, 1.4), 2))

    def inject(self, world: World) -> None:
        """Make the controller change something, and kill."""
        _a_change_begins(world)
        time.sleep(self.after_s)
        KillTriton.inject(self, world)

    def repair(self, world: World) -> None:
        """The load moves by itself again."""
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTriton(Fault):
    """SIGSTOP of tritonserver for a few seconds."""

    name: ClassVar[str] = "stop-triton"
    costs: ClassVar[Cost] = Cost.SERVER | Cost.WAIT

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """2 to 5 seconds."""
        return cls(lasts_s=round(random.uniform(2.0, 5.0), 1))

    def inject(self, world: World) -> None:
        """Stop it."""
        world.kept["stopped"] = world.triton()
        send(world.kept["stopped"], signal.SIGSTOP)

    def repair(self, world: World) -> None:
        """Let it go on; it may have been replaced meanwhile."""
        if world.kept["stopped"] == world.triton():
            send(world.kept["stopped"], signal.SIGCONT)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopController(Fault):
    """SIGSTOP of the controller for a few seconds."""

    name: ClassVar[str] = "stop-controller"

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """2 to 8 seconds."""
        return cls(lasts_s=round(random.uniform(2.0, 8.0), 1))

    def inject(self, world: World) -> None:
        """Stop it."""
        if world.controller is not None:
            send(world.controller.pid, signal.SIGSTOP)

    def repair(self, world: World) -> None:
        """Let it go on."""
        if world.controller is not None:
            send(world.controller.pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptWhileStopped(Fault):
    """SIGINT of the controller in the middle of a change, while Triton is stopped."""

    name: ClassVar[str] = "interrupt-while-stopped"
    costs: ClassVar[Cost] = Cost.SERVER | Cost.WAIT
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """A change begins, Triton stops, and Ctrl-C."""
        _a_change_begins(world)
        stopped, since_s = world.triton(), time.monotonic()
        send(stopped, signal.SIGSTOP)
        try:
            world.kept["ended_s"] = world.end_controller(patience_s=END_S + SLACK_S)
        finally:
            send(stopped, signal.SIGCONT)
            world.kept["held_s"] = time.monotonic() - since_s

    def repair(self, world: World) -> None:
        """The next controller."""
        world.load.free()
        world.ensure_controller()

    def verify(self, world: World) -> Iterator[str]:
        """It has ended in time."""
        if world.kept["ended_s"] is None:
            yield f"SIGINT did not end the controller within {END_S + SLACK_S:.0f} s"


def _a_change_begins(world: World) -> None:
    """Return when the controller has just written a config, or wants none within 10 s."""
    world.calm()
    world.rise()
    before = world.repository.config_text(SLEEPY)
    wait_until(lambda: world.repository.config_text(SLEEPY) != before, 10.0, step_s=0.02)


FAULTS = (
    KillController,
    KillControllerAt,
    KillStub,
    KillTriton,
    KillTritonNoLogs,
    KillTritonInChange,
    StopTriton,
    StopController,
    InterruptWhileStopped,
)
