"""The life of a loop: order at the start, ticks by the clock, and an end that waits for changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from control.act import jobs, outcome
from control.action import Action
from control.core.step import Started
from control.core.types import Decision
from control.loop import ControlLoop
from control.tick import Mode, Tick

PRUNE_EVERY_S = 3600.0
SAVE_EVERY_S = 60.0


def start(loop: ControlLoop, *, stop: threading.Event | None = None) -> None:
    """Bring what is on disk into force, where an earlier controller died in between.

    And remember what it tried in the last hour: budget, cooldown and what failed. A model that
    cannot be reconciled does not keep the others from being controlled. An advisory loop remembers
    nothing. ``stop`` ends the waiting for a server that hangs in a load.
    """
    if loop.mode is not Mode.ACTIVE:
        return

    def reconcile(model: str) -> None:
        """In order; not waited for beyond ``stop``."""
        jobs.waited_for(jobs.begin("conch-reconcile", loop.actuator.reconcile, model), stop)

    for model in loop.policies:
        jobs.alone(model, "model.not_reconciled", partial(reconcile, model))
    for model in loop.policies:
        began = outcome.remembered(loop.journal, model, Started(at_s=loop.clock()))
        jobs.alone(model, "model.not_restored", partial(loop.step, model, began))


def act(loop: ControlLoop, model: str, decision: Decision) -> Action:
    """Apply a decision and wait for the end.

    Raises:
        ConchError: when it failed and could not be undone.
    """
    future = loop.begin(model, decision)
    try:
        return future.result()
    finally:
        loop.ended(model)


def run(
    loop: ControlLoop,
    *,
    tick_s: float,
    stop: threading.Event,
    duration_s: float | None = None,
    on_tick: Callable[[Tick], None] | None = None,
) -> None:
    """Tick until ``stop`` is set or ``duration_s`` has passed; a tick that fails only holds.

    A change that is in flight at the end is waited for.
    """
    begun_s = time.monotonic()
    due_s = prune_s = begun_s
    save_s = begun_s + SAVE_EVERY_S
    try:
        while not stop.is_set():
            if time.monotonic() >= prune_s:
                prune_s += PRUNE_EVERY_S
                loop.prune()
            if time.monotonic() >= save_s:
                save_s += SAVE_EVERY_S
                loop.save()
            for done in loop.tick():
                if on_tick:
                    on_tick(done)
                if stop.is_set():
                    return
            now_s = time.monotonic()
            if duration_s is not None and now_s - begun_s >= duration_s:
                return
            # Ticks that came too late are skipped, not stacked.
            due_s = max(due_s + tick_s, now_s)
            stop.wait(due_s - now_s)
    finally:
        loop.settle()
