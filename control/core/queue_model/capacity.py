"""Capacity Λ(c, B, d): the greatest offered load that keeps p99 within the SLO's margin.

Theory of operation. Only ratios count: with all times divided by the latency limit, Λ is that of a
model whose limit is 1 s, divided by the limit. So answers are kept under the normalised curve,
rounded to ``ROUNDING``, and one table serves all models and lasts while ℓ drifts within that.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from control.core.policy import Policy
from control.core.queue_model import simulator
from control.core.service.curves import Steps
from control.core.service.learnt import ServiceTime

ROUNDING = 0.02
"""Step of the normalised service times, as a fraction."""
_STEPS = 9
_DIGITS = 3


def capacity_rps(
    service: ServiceTime,
    *,
    instances: int,
    largest_batch: int,
    max_queue_delay_s: float,
    policy: Policy,
    overhead_s: float = 0.0,
    transport_s: float = 0.0,
) -> float:
    """The largest λ with simulated p99 ≤ (1 - ε)·S and λ ≤ ρ·c·B/ℓ(B); 0 when ℓ alone misses it.

    Found by bisection over the simulator. More instances never carry less at equal ℓ.

    Args:
        service: ℓ(b) as it is with ``instances`` busy.
        instances, largest_batch, max_queue_delay_s: c, B, d.
        policy: S, ε and ρ.
        overhead_s: between two batches of an instance.
        transport_s: part of every latency that is spent beside the queue.

    Example:
        ℓ = 1 ms·b + 4 ms, c = 1, B = 8, d = 0, S = 50 ms: full batches give 8/12 ms = 667/s.
    """
    found = capacities_rps(
        service,
        {instances: 1.0},
        largest_batch=largest_batch,
        max_queue_delay_s=max_queue_delay_s,
        policy=policy,
        overhead_s=overhead_s,
        transport_s=transport_s,
    )
    return found[instances]


def capacities_rps(
    alone: ServiceTime,
    slower: Mapping[int, float],
    *,
    largest_batch: int,
    max_queue_delay_s: float,
    policy: Policy,
    overhead_s: float = 0.0,
    transport_s: float = 0.0,
) -> dict[int, float]:
    """``capacity_rps`` by instance count.

    Args:
        alone: ℓ(b) of an instance that is alone.
        slower: by instance count, how many times as long a batch takes when all are busy.
        largest_batch, max_queue_delay_s, policy, overhead_s, transport_s: see ``capacity_rps``.
    """
    limit_s = policy.slo_s * (1.0 - policy.margin_fraction) - transport_s
    if limit_s <= 0.0 or alone.of(largest_batch) <= 0.0:
        return dict.fromkeys(slower, 0.0)
    steps = alone.steps(ROUNDING, (factor / limit_s for factor in slower.values()))
    delay = round(max_queue_delay_s / limit_s, _DIGITS) if largest_batch > 1 else 0.0
    overhead = round(overhead_s / limit_s, _DIGITS)
    most = policy.utilisation_limit
    return {
        count: _normalised(step, count, largest_batch, delay, overhead, most) / limit_s
        for count, step in zip(slower, steps, strict=True)
    }


@functools.lru_cache(maxsize=65536)
def _normalised(
    steps: Steps,
    instances: int,
    largest_batch: int,
    delay: float,
    overhead: float,
    utilisation_limit: float,
) -> float:
    """Λ for a latency limit of 1."""
    service = ServiceTime.of_steps(steps, ROUNDING)
    # Nearly alone, a request waits out the delay: a load that is kept only because it fills
    # batches is no capacity.
    if service.of(1) + delay > 1.0:
        return 0.0

    def fits(rate: float) -> bool:
        return simulator.keeps(
            rate,
            service,
            instances=instances,
            largest_batch=largest_batch,
            max_queue_delay_s=delay,
            overhead_s=overhead,
            limit_s=1.0,
        )

    per_batch = service.of(largest_batch) + overhead
    low, high = 0.0, utilisation_limit * instances * largest_batch / per_batch
    if not fits(high):
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        high = low
    if instances == 1:
        return high
    fewer = _normalised(steps, instances - 1, largest_batch, delay, overhead, utilisation_limit)
    return max(high, fewer)
