"""A model's life under any rule, for what must hold for every rule: events in, decisions out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis import HealthCheck, settings

from control.core.memory.changes import Applied, InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules import RULES, rule_named
from control.core.rules.rule import Rule
from control.core.step import Begun, Ended, Event, Looked, step
from control.core.types import Decision, Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit import story
from tests.unit.story import TRUE, a_policy

EVERY = sorted(RULES)
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
POLICY = a_policy(max_instances=6, cores=6, load_s=2.0)


@dataclass
class Life:
    """One model under one rule: arithmetic serves, changes take ``load_s``, events are recorded."""

    rule: Rule
    policy: Policy = POLICY
    applied: Settings = field(default_factory=lambda: story.settings(2))
    load_s: float = 2.0
    at_s: float = 1000.0
    state: ControlState = field(default_factory=ControlState)
    counters: ModelCounters = field(default_factory=ModelCounters)
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    events: list[Event] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    changes: list[Decision] = field(default_factory=list)
    acting: tuple[Decision, float] | None = None

    def lasts(self, loads: list[float], **seen: Any) -> Life:
        """A look a second, after so many arrivals in it each; changes are obeyed."""
        for load in loads:
            self.serves(load)
            self.obeys(self.looks(**seen))
        return self

    def serves(self, arrivals: float, tick_s: float = 1.0) -> None:
        """Totals after these arrivals; a backlog waits for its mean age."""
        self.at_s += tick_s
        full = self.applied.largest_batch
        can = self.applied.instances * full / TRUE.of(full) * tick_s
        waiting = self.counters.pending + arrivals
        done = min(waiting, can)
        size = full if waiting > can else max(1, min(full, round(done / tick_s * TRUE.of(1))))
        busy_s, queue_s = done / size * TRUE.of(size), done * (waiting - done) / can
        before = self.statistics.batches.get(size, BatchStat(count=0, busy_s=0.0))
        stat = BatchStat(count=before.count + round(done / size), busy_s=before.busy_s + busy_s)
        self.statistics = replace(self.statistics, batches={**self.statistics.batches, size: stat})
        self.counters = replace(
            self.counters,
            success=self.counters.success + done,
            request_s=self.counters.request_s + queue_s + done * TRUE.of(size),
            queue_s=self.counters.queue_s + queue_s,
            compute_infer_s=self.counters.compute_infer_s + done * TRUE.of(size),
            pending=waiting - done,
        )

    def seen(self, **changes: Any) -> Observation:
        """What is there to be seen now."""
        look = Observation(
            at_s=self.at_s,
            tick_id=f"t{len(self.decisions)}",
            counters=self.counters,
            statistics=self.statistics,
            applied=self.applied,
        )
        return replace(look, **changes)

    def looks(self, **changes: Any) -> Decision:
        """One look, after a change that has ended meanwhile."""
        if self.acting is not None and self.at_s >= self.acting[1]:
            decision, self.acting = self.acting[0], None
            assert decision.desired is not None
            ended = Applied(
                at_s=self.at_s,
                settings=decision.desired,
                before=decision.applied,
                reload=decision.fresh,
                ok=True,
                seconds=self.load_s,
                undo=decision.reason is Reason.ROLLBACK,
            )
            self._feed(Ended(change=ended))
            self.applied = decision.desired
            if decision.fresh:
                self.statistics = ModelStatistics()
        decision = self._feed(Looked(seen=self.seen(**changes)))
        assert decision is not None
        self.decisions.append(decision)
        return decision

    def obeys(self, decision: Decision) -> None:
        """Begin the change that was decided."""
        if not decision.changes:
            return
        assert self.acting is None, "one change at a time"
        assert decision.desired is not None
        assert decision.applied is not None
        self.changes.append(decision)
        self.acting = decision, self.at_s + self.load_s
        change = InFlight(since_s=self.at_s, settings=decision.desired, before=decision.applied)
        self._feed(Begun(change=change))

    def _feed(self, event: Event) -> Decision | None:
        self.events.append(event)
        self.state, decision = step(self.rule, self.state, event, self.policy)
        return decision


@cache
def settled(name: str, instances: int = 2) -> Life:
    """A minute at 700/s, long enough for every rule to have learnt and to rest."""
    return Life(rule=rule_named(name), applied=story.settings(instances)).lasts([700.0] * 60)


def again(life: Life) -> Life:
    """The same life, to go on with."""
    return replace(
        life,
        events=list(life.events),
        decisions=list(life.decisions),
        changes=list(life.changes),
    )
