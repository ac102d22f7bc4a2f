"""Loads as a record of bursts sees them, and what it then holds for."""

from __future__ import annotations

from control.core.headroom import Headroom

FROM_S = 1000.0


def played(loads: list[float], record: Headroom | None = None, *, at_s: float = FROM_S) -> Headroom:
    """One look a second with these loads."""
    record = record or Headroom()
    for second, load in enumerate(loads):
        record = record.update(at_s=at_s + second, mean_rps=load, low_rps=load)
    return record


def held_rps(
    record: Headroom, *, at_s: float, loss_s: float = 5.0, carried_rps: float = 150.0
) -> float:
    """What is held for where one request of a hundred may be lost."""
    return record.held_rps(allowed_fraction=0.01, loss_s=loss_s, carried_rps=carried_rps, at_s=at_s)
