"""The budget between looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from control.core.budget.share import cap, share
from control.core.budget.want import Limit, Want, want_of
from control.core.memory.state import InFlight
from control.core.types import Decision, Observation, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The budget between looks: a value, replaced at every look.

    Attributes:
        limit: of all models together.
        policies: of each model.
        wants: what each look said; a model that was not looked at yet has none.
        goals: what ``share`` said at the start of this tick.
    """

    limit: Limit
    policies: Mapping[str, Policy]
    wants: Mapping[str, Want] = field(default_factory=dict)
    goals: Mapping[str, int] = field(default_factory=dict)

    def tick(self) -> Shares:
        """At the start of a tick: the goals anew."""
        return replace(self, goals=share(tuple(self.wants.values()), self.limit))

    def cap(self, model: str, seen: Observation) -> int | None:
        """What the model may hold now; until all were looked at once, nobody grows."""
        if len(self.wants) < len(self.policies) or model not in self.goals:
            return seen.applied.instances if seen.applied else None
        return cap(model, tuple(self.wants.values()), self.goals, self.limit)

    def looked(
        self, model: str, seen: Observation, decision: Decision, in_flight: InFlight | None
    ) -> Shares:
        """After a look, and after the change that it began."""
        want = want_of(
            model, seen, decision, in_flight, self.policies[model], self.wants.get(model)
        )
        return replace(self, wants={**self.wants, model: want})
