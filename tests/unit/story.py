"""Tell the core a story: so many seconds of so much load; it answers with decisions.

The server in the story is arithmetic: it answers what arrives up to its capacity and queues the
rest, with a true service time of its own. No clock, no server.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from control.core.decision.decide import decide
from control.core.memory.changes import Applied, InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.service.learnt import ServiceTime
from control.core.types import Decision, Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics

TRUE = ServiceTime(alpha_s=0.001, beta_s=0.004)


def settings(instances: int = 1, *, batch: int = 8, dynamic: bool = True, delay_s: float = 0.0):
    """Settings with defaults."""
    return Settings(
        instances=instances,
        max_batch_size=batch,
        dynamic_batching=dynamic,
        max_queue_delay_s=delay_s,
    )


def in_flight(wanted: Settings) -> InFlight:
    """A change to these settings that has begun."""
    return InFlight(since_s=1000.0, settings=wanted, before=settings())


def loaded_in(seconds: float) -> Applied:
    """A change long ago that added an instance and took so long."""
    return Applied(
        at_s=900.0,
        settings=settings(2),
        before=settings(1),
        reload=False,
        ok=True,
        seconds=seconds,
    )


def held_for(seconds: float) -> float:
    """An ``idle_cost`` at which the story's second instance is held so long without need, some."""
    return 3600.0 * 1200.0 * 4.0 / seconds


def a_policy(**changes: object) -> Policy:
    """A policy with an SLO of 50 ms, 4 instances on 4 cores, and a price for idle ones."""
    base = Policy(
        slo_s=0.05,
        max_instances=4,
        max_batch_size=32,
        cores=4,
        rebatch=False,
        idle_cost=held_for(40),
    )
    return replace(base, **changes)


@dataclass
class Story:
    """One model's life: state, totals so far, and every decision. ``curves`` are by version."""

    policy: Policy = field(default_factory=a_policy)
    applied: Settings = field(default_factory=settings)
    obeys: bool = True
    cap: int | None = None
    slots: int | None = None
    at_s: float = 1000.0
    state: ControlState = field(default_factory=ControlState)
    counters: ModelCounters = field(default_factory=ModelCounters)
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    pending: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    curves: dict[int, ServiceTime] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)

    def measured(self, *sizes: int) -> Story:
        """What a calibration tells: the times of these batches, by default of all up to 32."""
        stats = {
            size: BatchStat(count=5, busy_s=5 * self.true.of(size))
            for size in sizes or (1, 2, 4, 8, 16, 32)
        }
        learnt = self.state.learnt.absorb(
            ModelStatistics(batches=stats), instances=self.applied.instances, threads=1, span_s=1.0
        )
        self.state = replace(self.state, learnt=learnt)
        return self

    def passes(self, seconds: int, *, load_rps: float) -> Story:
        """That many ticks of 1 s under this load."""
        for _ in range(seconds):
            self.tick(load_rps)
        return self

    def tick(self, load_rps: float = 0.0, *, missing: tuple[str, ...] = ()) -> Decision:
        """One second, one look, one decision; obeyed at once if the story obeys."""
        self.at_s += 1.0
        self._serve(load_rps)
        seen = Observation(
            at_s=self.at_s,
            tick_id=f"t{len(self.decisions)}",
            counters=replace(self.counters, pending=self.pending),
            statistics=self.statistics,
            applied=self.applied,
            cap=self.cap,
            slots=self.slots,
            versions=tuple(sorted(self.curves)),
        )
        seen = replace(seen, **self.gauges, **dict.fromkeys(missing))
        decision, self.state = decide(self.state, seen, self.policy)
        self.decisions.append(decision)
        if decision.changes and self.obeys:
            assert decision.desired is not None
            same_version = replace(self.applied, version=decision.desired.version)
            if same_version != self.applied:  # Triton's statistics are of what is served
                self.statistics = ModelStatistics()
            change = Applied(
                at_s=self.at_s,
                settings=decision.desired,
                before=self.applied,
                reload=decision.fresh or not decision.desired.same_but_count(same_version),
                ok=True,
            )
            self.state = self.state.tried(change)
            self.applied = decision.desired
        return decision

    @property
    def true(self) -> ServiceTime:
        """The service time of the version in force; the newest where none is pinned."""
        if not self.curves:
            return TRUE
        return self.curves[self.applied.version or max(self.curves)]

    def _serve(self, load_rps: float) -> None:
        """Totals after one more second."""
        full = self.applied.largest_batch
        true = self.true
        can = self.applied.instances * full / true.of(full)
        waiting = self.pending + load_rps
        done = min(waiting, can)
        self.pending = waiting - done
        size = full if self.pending else max(1, min(full, round(done * true.of(1))))
        batches = int(done // size)
        before = self.statistics.batches.get(size, BatchStat(count=0, busy_s=0.0))
        stat = BatchStat(
            count=before.count + batches, busy_s=before.busy_s + batches * true.of(size)
        )
        self.statistics = replace(
            self.statistics,
            inference_count=self.statistics.inference_count + batches * size,
            execution_count=self.statistics.execution_count + batches,
            success_count=self.statistics.success_count + batches * size,
            batches={**self.statistics.batches, size: stat},
        )
        self.counters = replace(self.counters, success=self.counters.success + done)

    @property
    def last(self) -> Decision:
        """The newest decision."""
        return self.decisions[-1]

    @property
    def reasons(self) -> list[Reason]:
        """Every reason so far."""
        return [decision.reason for decision in self.decisions]

    @property
    def changes(self) -> list[Decision]:
        """The decisions that changed something."""
        return [decision for decision in self.decisions if decision.changes]
