"""p99 without a simulation, for whole grids at once: a filter, never the judge.

Theory of operation. A latency is a wait and a batch. The load fixes the typical batch b, the point
where what arrives during ℓ(b)/c is b. A request that finds all instances busy (Sakasegawa's
approximation, 1977) waits for the first of them, and, where the queue is longer than a batch, for
the batches before its own (Allen and Cunneen, counted in batches). The 99th percentile comes from
the tails of these. For one instance and unlimited batches the mean has a proven bound (Inoue,
2021). Within a factor of 0.5 to 1.7 of the simulated p99: tests/unit/test_closed_form.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from control.core.queueing import TAIL_FRACTION, batch_times_s
from control.core.service_time import ServiceTime

_ROUNDS = 12
"""Of the fixed point; each brings the batch closer by the share of ℓ that grows with it."""


def p99_s(
    rate_rps: ArrayLike,
    service: ServiceTime,
    *,
    instances: ArrayLike,
    largest_batch: ArrayLike,
    max_queue_delay_s: ArrayLike,
    overhead_s: float = 0.0,
) -> NDArray[np.float64]:
    """Estimated p99 in seconds, inf where the load exceeds full batches; the arguments broadcast.

    Example:
        >>> line = ServiceTime(alpha_s=0.001, beta_s=0.004)
        >>> p99_s(800, line, instances=1, largest_batch=8, max_queue_delay_s=0).item()
        inf
    """
    rate, c, largest, delay_s = (
        np.asarray(value, dtype=np.float64)
        for value in np.broadcast_arrays(rate_rps, instances, largest_batch, max_queue_delay_s)
    )
    times_s = batch_times_s(service, int(largest.max()))
    sizes = np.arange(times_s.size)

    def took_s(size: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(size, sizes, times_s) + overhead_s

    full_s = took_s(largest)
    utilisation = rate * full_s / (c * largest)
    delay_s = np.where(largest > 1, delay_s, 0.0)
    batch = np.ones_like(rate)
    for _ in range(_ROUNDS):
        batch = np.clip(np.maximum(rate * took_s(batch) / c, 1.0 + rate * delay_s), 1.0, largest)
    batch_s = took_s(batch)
    busy = np.minimum(1.0, rate * batch_s / (c * batch))
    all_busy = busy ** (np.sqrt(2.0 * (c + 1.0)) - 1.0)
    tail = np.minimum(1.0, TAIL_FRACTION / np.maximum(all_busy, TAIL_FRACTION))
    first_free_s = batch_s * (1.0 - tail ** (1.0 / c))
    filling_s = np.minimum(delay_s, (largest - 1.0) / np.maximum(rate, 1e-12))
    scatter = 1.0 / largest + service.cv_fraction**2
    slack = np.maximum(1.0 - utilisation, 1e-9)
    queue_s = -np.log(tail) * full_s * scatter / (2.0 * slack * c)
    # The slow ones are in a batch that is larger than the typical one: several instances are never
    # evenly spaced, and the first that is free takes the pile.
    pile = (np.sqrt(c) - 1.0) * batch + 2.0 * np.sqrt(batch)
    large = np.minimum(largest, batch + all_busy * pile)
    found = np.maximum(first_free_s, filling_s) + queue_s + took_s(large)
    return np.where(utilisation < 1.0, found, np.inf)


def mean_bound_s(rate_rps: float, *, alpha_s: float, beta_s: float) -> float:
    """Inoue's bound on the mean latency: one instance, batches without limit, Poisson arrivals.

    Source: Y. Inoue, "Queueing analysis of GPU-based inference servers with dynamic
    batching", 2021.

    Example:
        >>> round(mean_bound_s(1e-6, alpha_s=0.001, beta_s=0.004), 6)
        0.005
    """
    work = rate_rps * alpha_s
    if work >= 1.0:
        return float("inf")
    fixed = rate_rps * beta_s
    light_s = (alpha_s + beta_s) / (2 * (1 - work)) * (1 + 2 * fixed + (1 - fixed) / (1 + work))
    heavy_s = 1.5 * beta_s / (1 - work) + alpha_s / 2 * (work + 2) / (1 - work**2)
    return min(light_s, heavy_s)
