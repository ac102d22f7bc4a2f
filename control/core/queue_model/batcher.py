"""Triton's dynamic batcher as one loop over batches, in a form that numba compiles.

Theory of operation. One FIFO queue, c instances. An instance that is free takes what waits, up to
B, and is busy for ℓ(b) and the overhead. With a delay d > 0 a batch starts once B requests are
there or the oldest has waited d, whichever is first; while all instances are busy the delay runs
on. Batches leave in the order of their starts, so the loop goes from batch to batch and needs no
list of events.

Triton forms payloads ahead of time, up to twice the instances (``PayloadSlotAvailable`` in its
core). They only grow at the tail of the FIFO queue until they are executed, so that an instance
still takes the oldest B: nothing of it is seen from outside. See docs/explanation/queue-model.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Played = tuple[int, int, float, float]


def _play(
    arrival_s: Floats,
    batch_s: Floats,
    factor: Floats,
    instances: int,
    delay_s: float,
    overhead_s: float,
    limit_s: float,
    allowed: int,
    latency_s: Floats,
) -> Played:
    """Fill ``latency_s`` [n]; stop once more than ``allowed`` requests took over ``limit_s``.

    Args:
        arrival_s: [n], ascending.
        batch_s: [B + 1], seconds of a batch of b at index b.
        factor: multipliers of the batches' times, used round and round.
        instances: c.
        delay_s: d.
        overhead_s: that an instance needs after each batch before it takes the next.
        limit_s, allowed: when to give up.
        latency_s: where the answers go.

    Returns:
        (requests over the limit, batches, busy seconds, the last batch's end).
    """
    total, largest = arrival_s.size, batch_s.size - 1
    free_s = np.zeros(instances)
    head, missed, batches, busy_s, end_s = 0, 0, 0, 0.0, 0.0
    while head < total:
        first = 0
        for other in range(1, instances):
            if free_s[other] < free_s[first]:
                first = other
        start_s = max(free_s[first], arrival_s[head])
        full = head + largest
        if delay_s > 0.0:
            ripe_s = arrival_s[head] + delay_s
            if full <= total:
                ripe_s = min(ripe_s, arrival_s[full - 1])
            start_s = max(start_s, ripe_s)
        tail = head + 1
        while tail < total and tail < full and arrival_s[tail] <= start_s:
            tail += 1
        took_s = batch_s[tail - head] * factor[batches % factor.size]
        done_s = start_s + took_s
        for request in range(head, tail):
            latency_s[request] = done_s - arrival_s[request]
            if latency_s[request] > limit_s:
                missed += 1
        free_s[first] = done_s + overhead_s
        batches += 1
        busy_s += took_s + overhead_s
        end_s = max(end_s, done_s)
        head = tail
        if missed > allowed:
            break
    return missed, batches, busy_s, end_s


@functools.cache
def compiled() -> Callable[..., Played]:
    """``_play`` as machine code: about 1 s the first time ever, then read from numba's cache.

    Imported here, so that commands which predict nothing do not pay for it.
    """
    import numba  # type: ignore[import-untyped,unused-ignore]

    try:
        made: Any = numba.njit(cache=True, nogil=True)(_play)
    except RuntimeError:  # no folder that numba could keep it in: compiled in each process
        made = numba.njit(nogil=True)(_play)
    found: Callable[..., Played] = made
    return found
