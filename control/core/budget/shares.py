"""The budget between looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from control.core.budget import ladder
from control.core.budget.ladder import Climber, Plan
from control.core.budget.share import cap, room_bytes, share
from control.core.budget.want import Limit, Want, want_of
from control.core.memory.changes import InFlight
from control.core.policy import Policy
from control.core.service.versions import served
from control.core.types import Decision, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The budget between looks: a value, replaced at every look.

    Attributes:
        limit: of all models together.
        policies: of each model.
        wants: what each look said; a model that was not looked at yet has none.
        goals: what ``share`` said at the start of this tick.
        plan: which rung each model should have; none where there is no choice of versions.
        beside: the models whose next cheaper version may be loaded beside.
        at_s: of the last plan.
        placed: each model as it would be on its planned rung.
    """

    limit: Limit
    policies: Mapping[str, Policy]
    wants: Mapping[str, Want] = field(default_factory=dict)
    goals: Mapping[str, int] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    beside: frozenset[str] = frozenset()
    at_s: float | None = None
    placed: Mapping[str, Want] = field(default_factory=dict)

    def tick(self, at_s: float | None = None) -> Shares:
        """At the start of a tick: rungs and goals anew; ``at_s`` tells how long they were kept."""
        wants = tuple(self.wants.values())
        most = self.limit.memory_bytes
        if most is None or not self._complete or not any(len(want.rungs) > 1 for want in wants):
            return replace(self, goals=share(wants, self.limit), placed=self.wants)
        seconds = 0.0 if at_s is None or self.at_s is None else max(0.0, at_s - self.at_s)
        climbers = [self._climber(want) for want in wants]
        plan = ladder.plan(climbers, most, self.plan, seconds)
        rungs = dict(plan.rungs)
        placed = [want.on(rungs[want.model]) for want in wants]
        goals = share(placed, self.limit)
        while short := [want for want in placed if self._is_short(want, rungs, goals)]:
            rungs |= {want.model: len(want.rungs) - 1 for want in short}  # attainment first
            placed = [want.on(rungs[want.model]) for want in wants]
            goals = share(placed, self.limit)
        return replace(
            self,
            goals=goals,
            plan=replace(plan, rungs=rungs),
            beside=self._beside(placed, rungs, goals, most),
            at_s=at_s,
            placed={want.model: want for want in placed},
        )

    def cap(self, model: str, seen: Observation) -> int | None:
        """What the model may hold now; until all were looked at once, nobody grows."""
        if not self._complete or model not in self.goals:
            return seen.applied.instances if seen.applied else None
        return cap(model, tuple(self.placed.values()), self.goals, self.limit)

    def may_load(self, model: str, seen: Observation) -> tuple[int, ...] | None:
        """The versions that the model may hold now; None where the memory has no limit.

        A rung is given up at once, and climbed when others have made the room.
        """
        most, want = self.limit.memory_bytes, self.wants.get(model)
        if most is None or seen.applied is None or len(self.policies[model].versions) < 2:
            return None
        if want is None or model not in self.plan.rungs or not want.rungs:
            loaded = (*seen.applied.standby, served(seen))
            return tuple(version for version in loaded if version is not None)
        left = room_bytes(model, tuple(self.wants.values()), most)
        at = min(self.plan.rungs[model], len(want.rungs) - 1)
        count = max(want.held, self.goals[model])
        if at < want.rung and count * want.rungs[at].bytes_each > left:
            at = want.rung
        rung = want.rungs[at]
        both = count * (rung.bytes_each + (rung.beside_bytes or 0))
        below = want.rungs[at + 1 : at + 2] if model in self.beside and both <= left else ()
        return tuple(one.version for one in (*below, rung) if one.version is not None)

    def looked(
        self, model: str, seen: Observation, decision: Decision, in_flight: InFlight | None
    ) -> Shares:
        """After a look, and after the change that it began."""
        want = want_of(
            model, seen, decision, in_flight, self.policies[model], self.wants.get(model)
        )
        at = min(self.plan.rungs.get(model, want.rung), max(0, len(want.rungs) - 1))
        return replace(
            self,
            wants={**self.wants, model: want},
            placed={**self.placed, model: want.on(at)},
        )

    @property
    def lacks_bytes(self) -> int:
        """What the memory is short of the lowest rungs of all; 0 where they fit, or are unknown."""
        least = sum(
            want.min_instances * want.on(max(0, len(want.rungs) - 1)).bytes_each
            for want in self.wants.values()
        )
        most = self.limit.memory_bytes
        return 0 if most is None else max(0, least - most)

    @property
    def _complete(self) -> bool:
        """Whether each model was looked at."""
        return len(self.wants) >= len(self.policies)

    def _climber(self, want: Want) -> Climber:
        """The model on the rung of the last plan; on the one in force where that has none."""
        steps, at = want.steps(), self.plan.rungs.get(want.model, want.rung)
        at = at if at < len(steps) else want.rung
        return Climber(model=want.model, steps=steps, at=at, climb_s=want.load_s)

    def _is_short(self, want: Want, rungs: Mapping[str, int], goals: Mapping[str, int]) -> bool:
        """Whether the budget has too few instances for a rung that is not the lowest."""
        return rungs[want.model] + 1 < len(want.rungs) and goals[want.model] < want.lasting

    def _beside(
        self,
        placed: Sequence[Want],
        rungs: Mapping[str, int],
        goals: Mapping[str, int],
        most: int,
    ) -> frozenset[str]:
        """Whose next cheaper version there is room for, too: who has it, then the hottest first."""
        left, found = most - sum(goals[w.model] * w.bytes_each for w in placed), set()
        for want in sorted(
            placed,
            key=lambda w: (w.model not in self.beside, -w.weight * w.rate_rps, w.model),
        ):
            more = want.rungs[rungs[want.model]].beside_bytes if want.rungs else None
            if more is not None and goals[want.model] * more <= left:
                left -= goals[want.model] * more
                found.add(want.model)
        return frozenset(found)
