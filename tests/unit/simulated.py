"""Simulated Triton servers, the load on them, and when their changes end: for their tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from control.core.types import Settings
from perf.bench.control.scenarios import EMULATED
from perf.bench.control.simulated import IDEAL, Actuation, SimulatedServer
from perf.traces import poisson

STEADY = replace(EMULATED, jitter_fraction=0.0)


def server(
    arrival_s: np.ndarray,
    *,
    instances: int = 2,
    actuation: Actuation = IDEAL,
    jitter: bool = False,
    delay_s: float = 0.0,
) -> SimulatedServer:
    """A server that begins at 0."""
    return SimulatedServer(
        model=replace(EMULATED if jitter else STEADY, max_queue_delay_s=delay_s),
        arrival_s=arrival_s,
        start_s=0.0,
        instances=instances,
        seed=1,
        actuation=actuation,
    )


def settings(instances: int, *, max_batch_size: int = 8) -> Settings:
    """Of the emulated accelerator."""
    return Settings(
        instances=instances,
        max_batch_size=max_batch_size,
        dynamic_batching=True,
        max_queue_delay_s=0.0,
    )


def at(rate_rps: float, *, seconds: float = 60.0, seed: int = 3) -> np.ndarray:
    """Poisson arrivals."""
    return poisson(rate_rps, seconds, seed=seed).arrival_s


def ended_after(playing: SimulatedServer, begun_s: float, *, within_s: float = 60.0) -> float:
    """Seconds from the change's begin until it is told as ended."""
    for look in np.arange(begun_s, begun_s + within_s, 0.05):
        ended = playing.ended(float(look))
        if ended:
            return ended.at_s - begun_s
    return np.inf
