"""Tell a rule what it sees, second by second; it answers with decisions.

Unlike ``story``, nothing is served: a test says the load, the utilisation and the times, and so
can compute what the rule must do by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from control.core.memory.changes import Applied, InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules.rule import Rule
from control.core.types import Decision, Observation, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE, a_policy, settings


@dataclass
class RuleStory:
    """One model under one rule: what it shows, and every decision."""

    rule: Rule
    policy: Policy = field(default_factory=lambda: a_policy(max_instances=100))
    applied: Settings = field(default_factory=settings)
    obeys: bool = True
    at_s: float = 1000.0
    state: ControlState = field(default_factory=ControlState)
    counters: ModelCounters = field(default_factory=ModelCounters)
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    decisions: list[Decision] = field(default_factory=list)

    def sees(
        self,
        seconds: float,
        *,
        load_rps: float = 100.0,
        utilisation: float | None = 0.5,
        batch: int = 1,
        pending: float = 0.0,
        request_s: float = 0.01,
        queue_s: float = 0.0,
        tick_s: float = 1.0,
        missing: tuple[str, ...] = (),
        **seen: Any,
    ) -> RuleStory:
        """That many seconds in which the load is answered as it comes.

        ``utilisation`` is of each instance, in batches of ``batch``; None for what the story's true
        service time makes of the load. ``request_s`` and ``queue_s`` are of one request, the rest
        of a request's time is inference.
        """
        for _ in range(round(seconds / tick_s)):
            self.at_s += tick_s
            done = load_rps * tick_s
            if utilisation is None:
                busy_s = max(1, round(done / batch)) * TRUE.of(batch)
            else:
                busy_s = utilisation * self.applied.instances * tick_s
            before = self.statistics.batches.get(batch, BatchStat(count=0, busy_s=0.0))
            stat = BatchStat(
                count=before.count + max(1, round(done / batch)), busy_s=before.busy_s + busy_s
            )
            self.statistics = replace(
                self.statistics, batches={**self.statistics.batches, batch: stat}
            )
            self.counters = replace(
                self.counters,
                success=self.counters.success + done,
                request_s=self.counters.request_s + done * request_s,
                queue_s=self.counters.queue_s + done * queue_s,
                compute_infer_s=self.counters.compute_infer_s + done * (request_s - queue_s),
                pending=pending,
            )
            self.look(missing=missing, **seen)
        return self

    def look(self, *, missing: tuple[str, ...] = (), **seen: Any) -> Decision:
        """One look at what is, without any time passing."""
        look = Observation(
            at_s=self.at_s,
            tick_id=f"t{len(self.decisions)}",
            counters=self.counters,
            statistics=self.statistics,
            applied=self.applied,
        )
        changes: dict[str, Any] = {**dict.fromkeys(missing), **seen}
        look = replace(look, **changes)
        decision, self.state = self.rule.decide(self.state, look, self.policy)
        self.decisions.append(decision)
        if decision.changes and self.obeys:
            assert decision.desired is not None
            self.state = self.state.tried(
                Applied(at_s=self.at_s, settings=decision.desired, reload=False, ok=True)
            )
            self.applied = decision.desired
        return decision

    def begins(self) -> RuleStory:
        """Somebody's change is in flight from now on."""
        change = InFlight(since_s=self.at_s, settings=self.applied, before=self.applied)
        self.state = self.state.begun(change)
        return self

    @property
    def last(self) -> Decision:
        """The newest decision."""
        return self.decisions[-1]

    @property
    def counts(self) -> list[int]:
        """Every instance count that was applied, from the first on."""
        found = [settings().instances] if not self.decisions else []
        for one in self.decisions:
            if one.desired is not None and (not found or found[-1] != one.desired.instances):
                found.append(one.desired.instances)
        return found
