"""What of a change the free memory allows."""

from __future__ import annotations

from dataclasses import replace

from control.core.decision.facts import Facts
from control.core.reasons import Clamp
from control.core.types import Settings

COPY_MARGIN = 1.2
"""A copy is expected to take this many times what one took so far."""


def within_memory(
    facts: Facts, wanted: Settings, *, fresh: bool, clamps: list[Clamp]
) -> tuple[Settings, bool]:
    """What fits into the free memory, and whether by a fresh copy; what is unknown fits.

    A reload needs all its instances a second time, an in-place change only those added. Each of the
    versions has as many instances.
    """
    applied, seen = facts.applied, facts.seen
    free, copy, granularity = seen.memory_free_bytes, seen.memory_copy_bytes, seen.granularity
    if free is None or copy is None or copy <= 0:
        return wanted, fresh
    fits, each = int(free // (COPY_MARGIN * copy)), len(wanted.loaded)
    if not wanted.same_but_count(applied):  # all its instances are loaded beside the old ones
        if wanted.loads_beside(applied) <= fits:
            return wanted, fresh
        clamps.append(Clamp.MEMORY)
        return applied, False
    if fresh and each * wanted.instances > fits:
        clamps.append(Clamp.MEMORY)
        fresh = False
    if fresh or wanted.loads_beside(applied) <= fits:
        return wanted, fresh
    if Clamp.MEMORY not in clamps:
        clamps.append(Clamp.MEMORY)
    count = applied.instances + fits // each // granularity * granularity
    return replace(wanted, instances=count), False
