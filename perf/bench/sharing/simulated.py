"""One contender on a simulated server. Pure.

Theory of operation. Each model has one FIFO queue and its instances. A free instance takes what
waits, up to the largest batch: at once, or when the batch is full or its first request has waited
for the delay. Where there are slots it also needs one; of several models that could begin, Triton's
limiter takes the one whose instance has executed least. What has waited for longer than the limit
is dropped before a batch is made. There nothing loads, and nobody decides. Conch with a budget has
the server of ``conch perf bench budget``, which knows loading times but neither slots nor refusals.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError
from perf.bench.control import many
from perf.bench.control.simulated import Actuation, SimulatedServer
from perf.bench.emulated import EmulatedModel
from perf.bench.sharing.contenders import Contender
from perf.bench.sharing.loads import Load
from perf.bench.sharing.run import Met, Sharing, counted
from perf.traces import Times

TRITON = Actuation()
"""What Triton adds to a batch and to a request."""


@dataclass(slots=True, kw_only=True)
class _Queue:
    """One model.

    Attributes:
        arrival_s, done_s: float64 [n]; nan where it was refused.
        used: how often each free instance has executed, a heap.
    """

    model: EmulatedModel
    arrival_s: NDArray[np.float64]
    limit_s: float
    delay_s: float
    used: list[int]
    done_s: NDArray[np.float64] = field(init=False)
    head: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        """Nothing is answered yet."""
        self.done_s = np.full(self.arrival_s.size, np.nan)

    def arrived(self, at_s: float) -> int:
        """How many have come by then."""
        return int(np.searchsorted(self.arrival_s, at_s, side="right"))

    def refuse(self, at_s: float) -> None:
        """Drop what has waited for too long."""
        while self.head < self.arrival_s.size and self.arrival_s[self.head] + self.limit_s < at_s:
            self.head += 1

    def ready_s(self, at_s: float) -> float:
        """When a batch may begin, were an instance free; inf when nothing is left."""
        if self.head >= self.arrival_s.size or not self.used:
            return math.inf
        last = self.head + self.model.max_batch_size - 1
        full_s = self.arrival_s[last] if last < self.arrival_s.size else math.inf
        return max(at_s, min(float(full_s), float(self.arrival_s[self.head]) + self.delay_s))

    def begin(self, at_s: float, rng: np.random.Generator) -> tuple[float, int]:
        """Take a batch: (when it ends, how often its instance has executed then)."""
        size = min(self.arrived(at_s) - self.head, self.model.max_batch_size)
        jitter = 1.0 + self.model.jitter_fraction * min(3.0, max(-3.0, rng.standard_normal()))
        took_s = (self.model.alpha_s * size + self.model.beta_s) * jitter + TRITON.batch_s
        self.done_s[self.head : self.head + size] = at_s + took_s
        self.head += size
        self.batches += 1
        return at_s + took_s, heapq.heappop(self.used) + 1


def play(contender: Contender, load: Load) -> Sharing:
    """One run.

    Raises:
        ConfigError: for a controller with slots or refusals, which are simulated without one only.
    """
    if contender.control:
        return _controlled(contender, load)
    queues = [
        _Queue(
            model=member.model,
            arrival_s=load.trace(number).arrival_s,
            limit_s=contender.refuse_after_s(member) or math.inf,
            delay_s=contender.delay_s(member),
            used=[load.before(number, count)] * count,
        )
        for number, (member, count) in enumerate(zip(load.members, contender.counts, strict=True))
    ]
    _run(queues, contender.slots or sum(contender.counts), load.seed)
    seen = {
        queue.model.name: (queue.arrival_s, queue.done_s - queue.arrival_s + TRITON.transport_s)
        for queue in queues
    }
    batches = {
        queue.model.name: float(np.isfinite(queue.done_s).sum()) / max(1, queue.batches)
        for queue in queues
    }
    return _counted(contender, load, seen, batches)


def _controlled(contender: Contender, load: Load) -> Sharing:
    """Conch under a budget, on servers whose instances take their time to load."""
    if contender.slots or contender.refuse:
        raise ConfigError(
            f"--simulate: {contender.label}, simulated is conch with a budget alone.",
            hint="Leave it out, or play it on a real Triton.",
        )
    seats = [
        many.seated(
            member,
            SimulatedServer(
                model=member.model,
                arrival_s=load.trace(number).arrival_s,
                start_s=0.0,
                instances=contender.counts[number],
                seed=1000 * load.seed + number,
            ),
        )
        for number, member in enumerate(load.members)
    ]
    end_s = load.warm_up_s + load.duration_s
    many.lockstep(seats, instances=load.budget, start_s=0.0, end_s=end_s, obey=True)
    for seat in seats:
        seat.server.finish()
    seen = {
        seat.member.model.name: (seat.server.arrival_s, seat.server.latency_s()) for seat in seats
    }
    changes = sum(seat.changes for seat in seats)
    return replace(_counted(contender, load, seen, {}), changes=changes)


def _counted(
    contender: Contender,
    load: Load,
    seen: Mapping[str, tuple[Times, Times]],
    batches: dict[str, float],
) -> Sharing:
    """The figures, from when each request came and how long it took; nan where it was refused."""
    met = {}
    for member in load.members:
        arrival_s, latency_s = seen[member.model.name]
        met[member.model.name] = Met(
            intended_s=arrival_s,
            in_time=np.nan_to_num(latency_s, nan=math.inf) <= member.policy.slo_s,
            refused=np.isnan(latency_s),
        )
    return replace(counted(contender.label, load, met, simulated=True), mean_batch=batches)


def _run(queues: list[_Queue], slots: int, seed: int) -> None:
    """Play until nothing waits."""
    rng = np.random.default_rng((seed, 0x5107))
    at_s, free = 0.0, slots
    working: list[tuple[float, int, int]] = []  # ends at, model, executions of its instance
    while True:
        while working and working[0][0] <= at_s:
            _, number, used = heapq.heappop(working)
            heapq.heappush(queues[number].used, used)
            free += 1
        for queue in queues:
            queue.refuse(at_s)
        starts = [queue.ready_s(at_s) for queue in queues]
        now = [number for number, start_s in enumerate(starts) if start_s <= at_s]
        if free and now:
            number = min(now, key=lambda n: queues[n].used[0])
            ends_s, used = queues[number].begin(at_s, rng)
            heapq.heappush(working, (ends_s, number, used))
            free -= 1
            continue
        nexts = [working[0][0]] if working else []
        nexts += [start_s for start_s in starts if start_s > at_s] if free else []
        at_s = min(nexts, default=math.inf)
        if math.isinf(at_s):
            return
