"""What deciding costs with many models: synthetic looks, the real core, one core of the CPU.

Each model runs on one of the servers, and the models of a server share its budget of instances.
The looks are arithmetic (no Triton, no network): a server answers what comes up to its capacity,
with counters and batch statistics as Triton counts them. Only ``step`` and the budget are timed.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import psutil

from control.core.budget.shares import Shares
from control.core.budget.want import Limit
from control.core.decision.decide import Conch
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.service.learnt import ServiceTime
from control.core.step import Ended, Looked, Started, step
from control.core.types import Decision, Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics

TICK_S = 1.0
EPOCH_S = 1e6
DAY_S = 240.0
"""Each load goes up and down once in this time, so that instances come and go."""
MIB = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult:
    """What it cost.

    Attributes:
        models, servers, ticks: of the run; the first ``warm_up_ticks`` are not in the percentiles.
        tick_p50_s, tick_p99_s, tick_max_s: CPU seconds to decide for all models.
        first_ticks_max_s: the longest tick of the warm-up, in which every capacity is new.
        per_model_s: mean CPU seconds of one decision.
        memory_mib: growth of the resident memory over the run.
        changes: that were decided; a run without any would show nothing.
    """

    models: int
    servers: int
    ticks: int
    warm_up_ticks: int
    tick_p50_s: float
    tick_p99_s: float
    tick_max_s: float
    first_ticks_max_s: float
    per_model_s: float
    memory_mib: float
    changes: int


def run(
    *, models: int = 200, servers: int = 50, ticks: int = 300, warm_up_ticks: int = 30
) -> ScaleResult:
    """Decide for ``models`` on ``servers`` at a tick of 1 s; CPU time of this thread."""
    gc.collect()
    gc.freeze()  # as ``conch control run`` does
    before = psutil.Process().memory_info().rss
    seats = [_Seat.make(number, models) for number in range(models)]
    groups = [seats[at::servers] for at in range(servers)]
    shares = [
        Shares(
            limit=Limit(instances=6 * len(group)),
            policies={seat.name: seat.policy for seat in group},
        )
        for group in groups
    ]
    spent_s = []
    for number in range(warm_up_ticks + ticks):
        at_s = EPOCH_S + number * TICK_S
        cpu_s = 0.0
        for at, group in enumerate(groups):
            looks = [seat.look(at_s) for seat in group]
            begun_s = time.thread_time()
            shared = shares[at].tick()
            for seat, seen in zip(group, looks, strict=True):
                capped = replace(seen, cap=shared.cap(seat.name, seen))
                decision = seat.decide(capped)
                shared = shared.looked(seat.name, capped, decision, seat.state.in_flight)
            shares[at] = shared
            cpu_s += time.thread_time() - begun_s
            for seat in group:
                seat.obey(at_s)
        spent_s.append(cpu_s)
    scored = np.array(spent_s[warm_up_ticks:])
    return ScaleResult(
        models=models,
        servers=servers,
        ticks=ticks,
        warm_up_ticks=warm_up_ticks,
        tick_p50_s=float(np.quantile(scored, 0.5)),
        tick_p99_s=float(np.quantile(scored, 0.99)),
        tick_max_s=float(scored.max()),
        first_ticks_max_s=max(spent_s[:warm_up_ticks], default=0.0),
        per_model_s=float(scored.mean()) / models,
        memory_mib=(psutil.Process().memory_info().rss - before) / MIB,
        changes=sum(seat.changes for seat in seats),
    )


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One model: its true times and load, its totals, and what the core remembers."""

    name: str
    service: ServiceTime
    policy: Policy
    mean_rps: float
    phase: float
    rng: np.random.Generator
    settings: Settings = field(
        default_factory=lambda: Settings(
            instances=2, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0
        )
    )
    counters: ModelCounters = field(default_factory=ModelCounters)
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    state: ControlState = field(default_factory=ControlState)
    decision: Decision | None = None
    changes: int = 0

    @classmethod
    def make(cls, number: int, models: int) -> _Seat:
        """The model of this number: times, SLO and load differ from model to model."""
        rng = np.random.default_rng((7, number))
        scale = float(np.exp(rng.uniform(math.log(0.2), math.log(2.0))))
        seat = cls(
            name=f"model-{number}",
            service=ServiceTime(
                alpha_s=0.008 * scale * rng.uniform(0.7, 1.4),
                beta_s=0.032 * scale * rng.uniform(0.7, 1.4),
            ),
            policy=Policy(
                slo_s=0.4 * scale,
                max_instances=16,
                max_batch_size=8,
                cores=16,
                rebatch=False,
                load_s=3.0,
                weight=float(rng.integers(1, 4)),
            ),
            mean_rps=150.0 / scale * rng.uniform(0.5, 2.0),
            phase=2.0 * math.pi * number / models,
            rng=rng,
        )
        seat.state, _ = step(Conch(), seat.state, Started(at_s=EPOCH_S), seat.policy)
        return seat

    def look(self, at_s: float) -> Observation:
        """The totals after one more second."""
        swing = 1.0 + 0.7 * math.sin(2.0 * math.pi * (at_s - EPOCH_S) / DAY_S + self.phase)
        came = float(self.rng.poisson(self.mean_rps * swing * TICK_S))
        full = self.settings.largest_batch
        can = self.settings.instances * full / self.service.of(full) * TICK_S
        waiting = self.counters.pending + came
        done = math.floor(min(waiting, can))
        each = done / self.settings.instances
        size = min(full, max(1, round(each * self.service.of(1) / TICK_S)))
        size = full if waiting > can else size
        took_s = self.service.of(size) * float(self.rng.normal(1.0, 0.01))
        counts = {size: max(1, done // size)}
        if done % size:
            counts[done % size] = counts.get(done % size, 0) + 1
        batches = dict(self.statistics.batches)
        for executed, count in counts.items():
            old = batches.get(executed, BatchStat(count=0, busy_s=0.0))
            busy_s = old.busy_s + count * took_s * self.service.of(executed) / self.service.of(size)
            batches[executed] = BatchStat(count=old.count + count, busy_s=busy_s)
        number = sum(counts.values())
        wait_s = max(0.0, waiting - can) / max(can, 1.0)
        old_counters = self.counters
        self.counters = replace(
            old_counters,
            success=old_counters.success + done,
            inference_count=old_counters.inference_count + done,
            exec_count=old_counters.exec_count + number,
            queue_s=old_counters.queue_s + done * wait_s,
            compute_infer_s=old_counters.compute_infer_s + done * took_s,
            request_s=old_counters.request_s + done * (took_s + wait_s),
            pending=waiting - done,
        )
        self.statistics = replace(
            self.statistics,
            inference_count=self.statistics.inference_count + done,
            execution_count=self.statistics.execution_count + number,
            success_count=self.statistics.success_count + done,
            batches=batches,
        )
        return Observation(
            at_s=at_s,
            tick_id=self.name,
            counters=self.counters,
            statistics=self.statistics,
            applied=self.settings,
        )

    def decide(self, seen: Observation) -> Decision:
        """The core's answer to the look."""
        self.state, decision = step(Conch(), self.state, Looked(seen=seen), self.policy)
        assert decision is not None  # a look is always answered
        self.decision = decision
        return decision

    def obey(self, at_s: float) -> None:
        """Apply what was decided, at once."""
        decision = self.decision
        if decision is None or not decision.changes or decision.desired is None:
            return
        change = Applied(
            at_s=at_s,
            settings=decision.desired,
            before=self.settings,
            reload=False,
            ok=True,
            seconds=3.0,
        )
        self.state, _ = step(Conch(), self.state, Ended(change=change), self.policy)
        self.settings = decision.desired
        self.changes += 1
