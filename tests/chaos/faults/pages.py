"""Metrics pages that lie, one kind a fault: nothing may shrink, and nothing may end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tests.chaos.fault import Fault
from tests.chaos.world.models import (
    MODELS,
    NEEDED_INSTANCES,
    SETTLE_S,
    SLEEPY,
    STEADY_INSTANCES,
    STEADY_RPS,
)
from tests.chaos.world.processes import wait_until
from tests.chaos.world.proxy import HONEST, LIES
from tests.chaos.world.world import World

STEADY_S = 5.0
"""Of the steady load before the lie: a scale down for the load before it is over by then."""
LEAST_LOOKS = 3
"""At each model while the page lies; a deadline of 2 s for the whole answer leaves nine."""
GROWTH_BYTES = 200 * 2**20
"""How much the controller's memory may grow under a page that is too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LyingPage(Fault):
    """The page lies for a while, under a steady load that needs three instances."""

    lie: ClassVar[str] = ""
    lasts_s: float = 18.0  # beyond the time that an idle instance is held

    def inject(self, world: World) -> None:
        """Hold the load, wait for what it needs, lie."""
        world.rise()
        if not wait_until(lambda: (world.instances() or 0) >= STEADY_INSTANCES, SETTLE_S):
            world.note(f"  {world.instances()} instances before the lie")
        time.sleep(STEADY_S)
        seen = world.sampler.since(time.monotonic() - 1.0)
        world.kept["memory"] = max((s.memory_bytes for s in seen), default=0)
        world.kept["before"] = world.instances()
        world.kept["since_s"], world.kept["since_epoch_s"] = time.monotonic(), time.time()
        world.proxy.lie(self.lie)

    def repair(self, world: World) -> None:
        """Tell the truth again."""
        looks = world.ticks_since(world.kept["since_epoch_s"]) // len(MODELS)
        world.kept["looks"], world.kept["until_s"] = looks, time.monotonic()
        world.proxy.lie(HONEST)

    def verify(self, world: World) -> Iterator[str]:
        """No instance was lost that the load needs, also not in the first seconds after it."""
        time.sleep(max(0.0, world.kept["until_s"] + 4.0 - time.monotonic()))
        world.load.free()
        samples = world.sampler.since(world.kept["since_s"])
        counts = [count for s in samples if (count := s.instances(SLEEPY)) is not None]
        before = world.kept["before"] or 0
        if before >= NEEDED_INSTANCES and counts and min(counts) < NEEDED_INSTANCES:
            yield (
                f"{before} instances before the {self.lie} page, {min(counts)} under it; "
                f"{STEADY_RPS:.0f} req/s need {NEEDED_INSTANCES}"
            )
        if world.kept["looks"] < LEAST_LOOKS:
            yield f"{world.kept['looks']} looks in {self.lasts_s:.0f} s of the {self.lie} page"
        grown = max((s.memory_bytes for s in samples), default=0) - world.kept["memory"]
        if grown > GROWTH_BYTES:
            yield f"the controller grew by {grown / 2**20:.0f} MiB under the {self.lie} page"


def _kind(lie: str) -> type[LyingPage]:
    """The fault of one lie."""
    body = {"name": f"page-{lie}", "lie": lie, "__doc__": f"A {lie} page.", "__slots__": ()}
    return type(f"Page{lie.title()}", (LyingPage,), body)


FAULTS = tuple(_kind(lie) for lie in LIES)
