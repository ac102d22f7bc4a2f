"""One loaded copy of the simulated model: its queue, its instances, and what they have done."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.statistics import BatchStat, ModelStatistics

LIMIT = 3.0
"""Jitter beyond so many standard deviations is drawn again, as in ``examples/emulated``."""
DRAW = 8192

Told = tuple[float, Callable[[float], None]]
"""When something happened that was waited for, and what to do then."""


@dataclass(slots=True)
class Counted:
    """Running totals of what is answered; times are summed over requests."""

    requests: float = 0.0
    batches: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Totals:
    """What all copies share: arrivals, jitter, counters, answers.

    Attributes:
        arrival_s: float64 [n], ascending.
        rng: of the jitter.
        jitter_fraction: standard deviation of a batch's time, as a fraction.
        slower: by whole second since the start of the run, how many times as long a batch takes
            that begins in it; empty where nobody else works on the machine.
        start_s: of the run.
        times: ``arrival_s`` as Python floats, which are faster one by one.
        sum_s: sum of the arrival times before each request; [n + 1].
        counted: totals up to the last look.
        answers: (head, tail, done_s) of each batch.
    """

    arrival_s: NDArray[np.float64]
    rng: np.random.Generator
    jitter_fraction: float
    slower: list[float] = field(default_factory=list)
    start_s: float = 0.0
    times: list[float] = field(init=False)
    sum_s: list[float] = field(init=False)
    counted: Counted = field(default_factory=Counted)
    answers: list[tuple[int, int, float]] = field(default_factory=list)
    _factors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the lists."""
        self.times = self.arrival_s.tolist()
        self.sum_s = np.concatenate([[0.0], np.cumsum(self.arrival_s)]).tolist()

    def factor(self) -> float:
        """What the next batch's time is multiplied by."""
        if not self._factors:
            drawn = self.rng.standard_normal(DRAW)
            while (far := np.abs(drawn) > LIMIT).any():
                drawn[far] = self.rng.standard_normal(int(far.sum()))
            self._factors = (1.0 + self.jitter_fraction * drawn).tolist()
        return self._factors.pop()

    def slow_factor(self, at_s: float) -> float:
        """What the neighbour makes of a batch that begins now."""
        index = int(at_s - self.start_s)
        return self.slower[index] if 0 <= index < len(self.slower) else 1.0

    def latency_s(self) -> NDArray[np.float64]:
        """float64 [n], arrival to the end of the batch; nan where there is no answer yet."""
        latency = np.full(self.arrival_s.size, np.nan)
        if self.answers:
            table = np.array(self.answers)
            heads, tails = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
            sizes = tails - heads
            index = np.repeat(heads - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
            latency[index] = np.repeat(table[:, 2], sizes) - self.arrival_s[index]
        return latency


@dataclass(slots=True, kw_only=True)
class Copy:
    """A loaded copy of the model. It serves the requests from ``head`` on, in order.

    Attributes:
        totals: shared with the other copies.
        alpha_s, beta_s: of ℓ(b).
        beside_s: what comes on top of ℓ(b), without jitter.
        largest_batch: B.
        delay_s: how long the batcher may wait.
        head: the next request that is not in a batch yet.
        free_s: when each instance is free, as a heap.
        end: the first request that is another copy's.
        uncounted: (done_s, start_s, head, tail) of the batches that no look has counted.
    """

    totals: Totals
    alpha_s: float
    beta_s: float
    beside_s: float
    largest_batch: int
    delay_s: float
    head: int
    free_s: list[float]
    end: int = -1
    uncounted: list[tuple[float, float, int, int]] = field(default_factory=list)
    _batches: dict[int, tuple[int, float]] = field(default_factory=dict)
    _served: list[tuple[int, Callable[[float], None]]] = field(default_factory=list)
    _idle: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        """All requests are its own until another copy takes over."""
        if self.end < 0:
            self.end = len(self.totals.times)

    def run(self, until_s: float) -> Told | None:
        """Start the batches that start up to ``until_s``; stops at what is waited for."""
        times, free, end = self.totals.times, self.free_s, self.end
        largest, delay_s = self.largest_batch, self.delay_s
        alpha_s, beta_s, beside_s = self.alpha_s, self.beta_s, self.beside_s
        factor, answers, uncounted = self.totals.factor, self.totals.answers, self.uncounted
        jitter = self.totals.jitter_fraction > 0
        neighbour = bool(self.totals.slower)
        waited_for = bool(self._served) or self._idle is not None
        head = self.head
        while head < end:
            start_s = free[0] if free[0] > times[head] else times[head]
            full = head + largest
            if delay_s and (full > end or times[full - 1] > start_s):
                waited_s = times[head] + delay_s
                start_s = max(start_s, min(times[full - 1], waited_s) if full <= end else waited_s)
            if start_s > until_s:
                break
            tail = bisect_right(times, start_s, head, full if full < end else end)
            took_s = alpha_s * (tail - head) + beta_s
            if jitter:
                took_s *= factor()
            if neighbour:
                took_s *= self.totals.slow_factor(start_s)
            done_s = start_s + (took_s + beside_s)
            heapq.heapreplace(free, done_s)
            answers.append((head, tail, done_s))
            uncounted.append((done_s, start_s, head, tail))
            self.head = head = tail
            if waited_for:
                told = self._happened(start_s)
                if told is not None:
                    return told
        return None

    def _happened(self, at_s: float) -> Told | None:
        """What is waited for and has come, once."""
        for number, (request, act) in enumerate(self._served):
            if self.head > request:
                del self._served[number]
                return at_s, act
        if self._idle is not None and self.idle_s(at_s) < self._next_s():
            act, self._idle = self._idle, None
            return self.idle_s(at_s), act
        return None

    def when_served(self, request: int, act: Callable[[float], None]) -> None:
        """Do this when the request is in a batch."""
        self._served.append((request, act))

    def when_idle(self, act: Callable[[float], None]) -> None:
        """Do this when an instance finds nothing to do; told ahead, with the moment."""
        self._idle = act

    def is_idle(self, at_s: float) -> bool:
        """Whether an instance has nothing to do."""
        return self.free_s[0] <= at_s < self._next_s()

    def idle_s(self, at_s: float) -> float:
        """When an instance is free next."""
        return max(at_s, self.free_s[0])

    def _next_s(self) -> float:
        """When the next request that is in no batch came or comes."""
        return self.totals.times[self.head] if self.head < self.end else math.inf

    def arrived(self, at_s: float) -> int:
        """The first request that arrives after this moment."""
        return bisect_right(self.totals.times, at_s, 0, self.end)

    def waiting(self, at_s: float) -> int:
        """Requests that are here and in no batch."""
        return max(0, bisect_right(self.totals.times, at_s, self.head, self.end) - self.head)

    def close(self, end: int) -> None:
        """Serve only the requests before this one."""
        self.end = end

    def add(self, at_s: float) -> None:
        """One more instance takes work from now on."""
        heapq.heappush(self.free_s, at_s)

    def remove(self, count: int) -> None:
        """Fewer instances take work; those that have been free longest go first."""
        for _ in range(min(count, len(self.free_s) - 1)):
            heapq.heappop(self.free_s)

    def count(self, at_s: float) -> None:
        """Count the batches that were done by then."""
        counted, sum_s, left = self.totals.counted, self.totals.sum_s, []
        for batch in self.uncounted:
            done_s, start_s, head, tail = batch
            if done_s > at_s:
                left.append(batch)
                continue
            size, took_s = tail - head, done_s - start_s
            count, busy_s = self._batches.get(size, (0, 0.0))
            self._batches[size] = (count + 1, busy_s + took_s)
            counted.requests += size
            counted.batches += 1
            counted.queue_s += start_s * size - (sum_s[tail] - sum_s[head])
            counted.compute_s += took_s * size
        self.uncounted = left

    def statistics(self) -> ModelStatistics:
        """ModelStatistics as of the last count."""
        batches = {
            size: BatchStat(count=count, busy_s=busy_s)
            for size, (count, busy_s) in self._batches.items()
        }
        requests = sum(size * stat.count for size, stat in batches.items())
        return ModelStatistics(
            inference_count=requests,
            execution_count=sum(stat.count for stat in batches.values()),
            success_count=requests,
            batches=batches,
        )
