"""A discrete-event model of Triton's dynamic batcher: latencies for given arrivals.

The judge of every plan. ``batcher`` has the loop; here are its inputs: Poisson arrivals and factors
of batch times that are the same ones always, so that two predictions differ only by what was asked
(common random numbers). Both are stratified: the n quantiles of their distribution in a random
order, so that mean and spread are exact. That makes 8,000 arrivals as good as twice as many.
Checked against theory in tests, and against a real server: docs/explanation/queue-model.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from control.core.queue_model.batcher import compiled
from control.core.service.learnt import ServiceTime

REQUESTS = 8000
FACTORS = 4096
SEED = 4
"""Of 24, the one with which Λ was closest to that of 1,000,000 arrivals, on 72 settings; on 72
others 95 % of the answers were within 2 %."""
TAIL_FRACTION = 0.01
"""Of the requests may take longer than the p99."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What the model predicts.

    Attributes:
        latency_s: float64 [requests], from arrival to the answer; those of the backlog first.
        busy_fraction: of the instances' time.
        mean_batch: requests per executed batch.
    """

    latency_s: NDArray[np.float64]
    busy_fraction: float
    mean_batch: float

    @property
    def p99_s(self) -> float:
        """The 99th percentile of the latency, as ``np.quantile`` has it, but a third sooner."""
        rank = (1.0 - TAIL_FRACTION) * (self.latency_s.size - 1)
        below, above = math.floor(rank), math.ceil(rank)
        parted = np.partition(self.latency_s, (below, above))
        return float(parted[below] + (rank - below) * (parted[above] - parted[below]))


def simulate(
    arrival_s: NDArray[np.float64],
    service: ServiceTime,
    *,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    overhead_s: float = 0.0,
    transport_s: float = 0.0,
    backlog_count: int = 0,
) -> Simulated:
    """Play the arrivals (float64 [n], ascending, n ≥ 1) through the batcher.

    Args:
        arrival_s: seconds; the instances are idle before the first.
        service: ℓ(b) and its coefficient of variation.
        instances: c ≥ 1.
        largest_batch: B ≥ 1.
        max_queue_delay_s: d; without effect where B = 1.
        overhead_s: from the end of a batch until its instance takes the next.
        transport_s: added to every latency: what client, network and server take beside the queue.
        backlog_count: requests that wait already at time 0.
    """
    times_s = np.ascontiguousarray(arrival_s, dtype=np.float64)
    if backlog_count:
        times_s = np.concatenate([np.zeros(backlog_count), times_s])
    latency_s = np.empty(times_s.size)
    _, batches, busy_s, end_s = compiled()(
        times_s,
        batch_times_s(service, largest_batch),
        factors(service.cv_fraction),
        instances,
        float(max_queue_delay_s) if largest_batch > 1 else 0.0,
        overhead_s,
        math.inf,
        times_s.size,
        latency_s,
    )
    return Simulated(
        latency_s=latency_s + transport_s,
        busy_fraction=min(1.0, busy_s / (instances * end_s)) if end_s else 0.0,
        mean_batch=times_s.size / batches,
    )


def keeps(
    rate_rps: float,
    service: ServiceTime,
    *,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    limit_s: float,
    overhead_s: float = 0.0,
) -> bool:
    """Whether Poisson arrivals at this rate keep p99 ≤ ``limit_s``; a clear miss is told early."""
    allowed = int(TAIL_FRACTION * REQUESTS)
    missed, *_ = compiled()(
        unit_arrivals() / rate_rps,
        batch_times_s(service, largest_batch),
        factors(service.cv_fraction),
        instances,
        float(max_queue_delay_s) if largest_batch > 1 else 0.0,
        overhead_s,
        limit_s,
        allowed,
        np.empty(REQUESTS),
    )
    return missed <= allowed


def predict(
    rate_rps: float,
    service: ServiceTime,
    *,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    overhead_s: float = 0.0,
    transport_s: float = 0.0,
) -> Simulated:
    """The model's answer for Poisson arrivals at ``rate_rps`` > 0; arguments as ``simulate``."""
    return simulate(
        unit_arrivals() / rate_rps,
        service,
        instances=instances,
        largest_batch=largest_batch,
        max_queue_delay_s=max_queue_delay_s,
        overhead_s=overhead_s,
        transport_s=transport_s,
    )


def batch_times_s(service: ServiceTime, largest_batch: int) -> NDArray[np.float64]:
    """ℓ(b) at index b, for 0 (where it is 0) to B."""
    return np.array((0.0, *service.of_each(largest_batch)))


@functools.cache
def unit_arrivals() -> NDArray[np.float64]:
    """Poisson arrivals at rate 1/s, float64 [``REQUESTS``]: the same ones always."""
    gaps_s = -np.log1p(-_quantiles(REQUESTS))
    gaps_s *= REQUESTS / gaps_s.sum()
    return np.cumsum(np.random.default_rng(SEED).permutation(gaps_s))


@functools.lru_cache(maxsize=64)
def factors(cv_fraction: float) -> NDArray[np.float64]:
    """Multipliers of the batches' times: normal with mean 1 and this spread, at least 0.05."""
    if cv_fraction <= 0.0:
        return np.ones(1)
    return np.maximum(1.0 + cv_fraction * _normal(), 0.05)


@functools.cache
def _normal() -> NDArray[np.float64]:
    """Standard normal quantiles in a random order."""
    inverse = NormalDist().inv_cdf
    values = np.array([inverse(share) for share in _quantiles(FACTORS)])
    return np.random.default_rng(SEED).permutation(values)


def _quantiles(count: int) -> NDArray[np.float64]:
    """The middles of ``count`` equal shares of 0 to 1."""
    return (np.arange(count) + 0.5) / count
