"""The latency that the queue model expects now: for people, no decision reads it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from control.core.queue_model import simulator
from control.core.service.learnt import ServiceTime
from control.core.types import Settings

ROUNDED = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the model of the queue says of the latency, in seconds."""

    mean_s: float
    p99_s: float


def expected(
    service: ServiceTime, settings: Settings, instances: int, rate_rps: float
) -> Expected | None:
    """Mean and p99 of the latency at this load; None where it cannot be said.

    Load and curve are rounded to 4 %, so that a table of earlier answers serves.
    """
    if not 0.0 < rate_rps < math.inf or service.of(1) <= 0:
        return None
    return _expected(
        service.rounded(ROUNDED),
        instances,
        settings.largest_batch,
        settings.max_queue_delay_s,
        round(math.log(rate_rps) / ROUNDED),
    )


@functools.lru_cache(maxsize=4096)
def _expected(
    service: ServiceTime, instances: int, largest_batch: int, delay_s: float, rate_step: int
) -> Expected:
    """The prediction behind ``expected``."""
    predicted = simulator.predict(
        math.exp(rate_step * ROUNDED),
        service,
        instances=instances,
        largest_batch=largest_batch,
        max_queue_delay_s=delay_s,
    )
    return Expected(mean_s=float(predicted.latency_s.mean()), p99_s=predicted.p99_s)
