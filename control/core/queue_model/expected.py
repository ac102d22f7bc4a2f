"""What latency the model of the queue expects, by the terms of a decision: for people only.

A decision does not need it, and it takes as long as the rest of one, so whoever tells it works it
out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from control.core.queue_model import simulator
from control.core.service.curves import ServiceTime
from control.core.types import Settings

ROUNDED = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the model of the queue says of the latency, in seconds."""

    mean_s: float
    p99_s: float


def expected(terms: Mapping[str, float], settings: Settings | None) -> Expected | None:
    """Mean and p99 of the latency at the load of these terms; None where it cannot be said.

    Load and curve are rounded to 4 %, so that a table of earlier answers serves.

    Args:
        terms: of a decision.
        settings: that were in force.
    """
    rate_rps = terms.get("stable_rps", 0.0)
    if settings is None or not 0.0 < rate_rps < math.inf or "service_beta_s" not in terms:
        return None
    service = ServiceTime(
        alpha_s=terms["service_alpha_s"],
        beta_s=terms["service_beta_s"],
        cv_fraction=terms.get("service_cv", 0.0),
    )
    if service.of(1) <= 0:
        return None
    return _expected(
        service.rounded(ROUNDED),
        settings.instances,
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
