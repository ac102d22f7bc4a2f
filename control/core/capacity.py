"""Capacity Λ(c, B, d): the greatest offered load that keeps p99 within the SLO's margin."""

from __future__ import annotations

import functools
import math

from control.core import queueing
from control.core.service_time import ServiceTime
from control.core.types import Policy

_STEPS = 9


def capacity_rps(
    service: ServiceTime,
    *,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    policy: Policy,
) -> float:
    """The largest λ with simulated p99 ≤ (1 - ε)·S and λ ≤ ρ·c·B/ℓ(B); 0 when ℓ alone misses it.

    Found by bisection over the simulator; the curve is rounded to 5% first, so that a table of
    earlier answers serves while ℓ drifts within that.

    Example:
        ℓ = 1 ms·b + 4 ms, c = 1, B = 8, d = 0, S = 50 ms: full batches give 8/12 ms = 667/s.
    """
    return _capacity(
        ServiceTime(alpha_s=_rounded(service.alpha_s), beta_s=_rounded(service.beta_s)),
        instances,
        largest_batch,
        max_queue_delay_s,
        policy.slo_s * (1.0 - policy.margin_fraction),
        policy.utilisation_limit,
    )


@functools.lru_cache(maxsize=4096)
def _capacity(
    service: ServiceTime,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    limit_s: float,
    utilisation_limit: float,
) -> float:
    """The bisection behind ``capacity_rps``."""
    full_s = service.of(largest_batch)
    if full_s <= 0:
        return 0.0

    def fits(rate_rps: float) -> bool:
        predicted = queueing.predict(
            rate_rps,
            service,
            instances=instances,
            largest_batch=largest_batch,
            max_queue_delay_s=max_queue_delay_s,
        )
        return predicted.p99_s <= limit_s

    low, high = 0.0, utilisation_limit * instances * largest_batch / full_s
    if fits(high):
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _rounded(seconds: float) -> float:
    """To steps of 5%."""
    if seconds <= 0:
        return 0.0
    return float(math.exp(round(math.log(seconds) / 0.05) * 0.05))
