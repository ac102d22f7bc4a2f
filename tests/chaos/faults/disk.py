"""Disks that are full or say so, and temporary files that nobody took away."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Self

from tests.chaos.fault import Fault
from tests.chaos.world.processes import wait_until
from tests.chaos.world.world import World

_CHUNK = 2**20
STALE = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Fault):
    """The repository's disk is full while the load jumps; needs a disk of our own."""

    name: ClassVar[str] = "disk-full"
    lasts_s: float = 8.0

    def inject(self, world: World) -> None:
        """Fill it to the last byte."""
        if not world.on_own_disk:
            world.note("  no disk of our own: mounting is not allowed here")
            return
        world.calm()
        filler = _filler(world)
        with filler.open("wb", buffering=0) as file:
            for size in (_CHUNK, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        world.rise()

    def repair(self, world: World) -> None:
        """Make room."""
        _filler(world).unlink(missing_ok=True)
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRefuses(Fault):
    """Writing fails at one place of a change, each time."""

    name: ClassVar[str] = "disk-refuses"
    ends_controller: ClassVar[bool] = True
    point: str = "repository.config.temp_written"
    lasts_s: float = 8.0

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """At the revision, its record, or the config."""
        points = ("revision.text", "revision.record", "repository.config")
        return cls(point=f"{random.choice(points)}.temp_written")

    def inject(self, world: World) -> None:
        """A controller whose disk is so, and a load that makes it write."""
        world.calm()
        world.end_controller()
        world.start_controller(failpoint=f"{self.point}=enospc")
        world.rise()

    def repair(self, world: World) -> None:
        """One with a good disk."""
        world.kept["ran"] = world.controls()
        world.end_controller()
        world.start_controller()
        world.load.free()

    def verify(self, world: World) -> Iterator[str]:
        """The first one held, and did not end."""
        if not world.kept["ran"]:
            yield f"the controller ended when {self.point} was refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleTemporary(Fault):
    """Old temporary files lie in ``.conch/tmp``: the next start removes them."""

    name: ClassVar[str] = "stale-temporary"
    ends_controller: ClassVar[bool] = True
    lasts_s: float = 0.0

    def inject(self, world: World) -> None:
        """Leave some, an hour old, and start a controller."""
        world.end_controller()
        folder = world.root / ".conch" / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        old_s = time.time() - 3600.0
        for number in range(STALE):
            path = folder / f"config.pbtxt.{number:032x}"
            path.write_text("half a conf")
            os.utime(path, (old_s, old_s))
        world.start_controller()

    def verify(self, world: World) -> Iterator[str]:
        """They are gone."""
        if not wait_until(lambda: not _stale(world), 10.0):
            yield f"{len(_stale(world))} of {STALE} old temporary files are still there"
            for path in _stale(world):
                path.unlink(missing_ok=True)


def _filler(world: World) -> Path:
    return world.root.parent / "filler"


def _stale(world: World) -> list[Path]:
    return sorted((world.root / ".conch" / "tmp").glob("config.pbtxt." + "0" * 20 + "*"))


FAULTS = (DiskFull, DiskRefuses, StaleTemporary)
