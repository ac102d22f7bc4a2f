"""What one model holds of the budget, and what it would need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from control.core.budget.ladder import Rung, Step
from control.core.memory.changes import InFlight
from control.core.policy import Policy
from control.core.queue_model.knowledge import fewest
from control.core.reasons import Reason
from control.core.service.versions import served
from control.core.types import Decision, Need, Observation, Settings

NEARLY = 1.05
"""What is held is enough up to this many times its capacity, which has a margin of its own."""
JUMP = 0.15
"""A load that differs by more than this share is another load."""
NEW_PART = 0.1
"""Of the averaged load that the newest look makes up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What all models may use together; None sets no limit.

    Attributes:
        instances: of all models.
        cores: that their threads may keep busy.
        memory_bytes: of all instances.
    """

    instances: int | None = None
    cores: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What one model holds and what it would need.

    Attributes:
        model: its name.
        weight: greater than 0.
        held: instances that are in force or being loaded, whichever are more.
        second: those of the copy that a full reload is loading beside the first.
        needed: for its load of this moment; hold: for that of the last while, at least ``needed``.
        rate_rps: the load, averaged for longer: a whole need must not come and go with noise.
        min_instances, max_instances: inclusive.
        capacities: Λ by instance count; empty where nothing is known.
        cores_each: that an instance keeps busy; 0 on an accelerator.
        bytes_each: of memory; 0 where it is not known.
        held_bytes: of all that is held; None for ``held`` times ``bytes_each``.
        second_bytes: of what is loaded beside it until a change is over; None as ``held_bytes``.
        rungs: best first; empty where the budget has no memory limit.
        rung: index of the one in force.
        load_s: how long an instance takes to load.
    """

    model: str
    weight: float = 1.0
    held: int = 1
    second: int = 0
    needed: int = 1
    hold: int = 1
    min_instances: int = 1
    max_instances: int = 1
    rate_rps: float = 0.0
    capacities: Mapping[int, float] = field(default_factory=dict)
    cores_each: float = 0.0
    bytes_each: int = 0
    held_bytes: int | None = None
    second_bytes: int | None = None
    rungs: tuple[Rung, ...] = ()
    rung: int = 0
    load_s: float = 0.0

    @property
    def kept_bytes(self) -> int:
        """Of memory, when no change is in flight."""
        return self.held * self.bytes_each if self.held_bytes is None else self.held_bytes

    @property
    def taken_bytes(self) -> int:
        """Of memory, at this moment."""
        second = self.second_bytes
        return self.kept_bytes + (self.second * self.bytes_each if second is None else second)

    def on(self, rung: int) -> Want:
        """What it would need on that rung."""
        if not self.rungs:
            return self
        there = self.rungs[rung]
        placed = replace(self, bytes_each=there.bytes_each)
        if rung == self.rung:
            return placed
        placed = replace(placed, capacities=there.capacities or self.capacities)
        return replace(placed, needed=placed.lasting, hold=placed.lasting)

    def steps(self) -> tuple[Step, ...]:
        """Each rung as it would be held now.

        One that answers fewer in time than the lowest is worth less than nothing; the one in force
        as much as the lowest, as a prediction alone costs no quality.
        """
        if not self.rungs:
            rps = self.rate_rps * self.served_fraction(self.lasting)
            return (Step(size=self.lasting * self.bytes_each, worth=self.weight * rps),)
        placed = [self.on(rung) for rung in range(len(self.rungs))]
        carried = [self.rate_rps * want.served_fraction(want.lasting) for want in placed]
        worths = [
            self.weight * rung.quality * rps if rps >= carried[-1] else -1.0
            for rung, rps in zip(self.rungs, carried, strict=True)
        ]
        worths[self.rung] = max(worths[self.rung], worths[-1])
        return tuple(
            Step(size=want.lasting * want.bytes_each, worth=worth)
            for want, worth in zip(placed, worths, strict=True)
        )

    def bounded(self, count: int) -> int:
        """The count within the model's own bounds."""
        return min(max(count, self.min_instances), self.max_instances)

    @property
    def lasting(self) -> int:
        """The fewest instances for the averaged load; ``needed`` where that is not known."""
        if not self.capacities or self.rate_rps <= 0:
            return self.bounded(self.needed)
        if self.capacities.get(self.held, 0.0) * NEARLY >= self.rate_rps:
            fits = {n: rps for n, rps in self.capacities.items() if n <= self.held}
            return self.bounded(fewest(fits, min(self.rate_rps, fits[self.held])))
        return self.bounded(fewest(dict(self.capacities), self.rate_rps))

    def served_fraction(self, count: int) -> float:
        """The share of its load that so many instances carry, at most 1."""
        if self.rate_rps > 0 and count in self.capacities:
            return min(1.0, self.capacities[count] / self.rate_rps)
        return min(1.0, count / max(1, self.needed))


def want_of(
    model: str,
    seen: Observation,
    decision: Decision,
    in_flight: InFlight | None,
    policy: Policy,
    before: Want | None,
) -> Want:
    """What a look says of the model; what it does not say stays as it was ``before``."""
    counts = [] if seen.applied is None else [seen.applied.instances]
    if in_flight is not None:
        counts += [in_flight.settings.instances, in_flight.before.instances]
    if not counts:
        counts = [before.held if before else policy.min_instances]
    held = max(counts)
    second = 0
    if in_flight is not None:
        reload = not in_flight.settings.same_but_count(in_flight.before)
        begun = decision.changes and decision.desired == in_flight.settings
        if reload or (decision.fresh and begun):
            second = min(in_flight.settings.instances, in_flight.before.instances)
        elif before is not None:
            second = before.second
    need = decision.need
    old = before or Want(model=model, needed=held, hold=held)
    if decision.reason is Reason.HOLD_IDLE:
        old = Want(model=model, needed=policy.min_instances, hold=policy.min_instances)
    on_gpu = seen.gpu_fraction is not None
    rungs, rung = old.rungs, old.rung
    if seen.applied is not None:
        rungs, rung = _rungs(seen, policy, need, old)
    kept, taken = _bytes(seen, in_flight, held, second)
    return Want(
        model=model,
        weight=policy.weight,
        held=held,
        second=second,
        needed=need.needed if need else old.needed,
        hold=max(need.needed, need.hold) if need else max(old.needed, old.hold),
        min_instances=policy.min_instances,
        max_instances=policy.max_instances,
        rate_rps=_averaged(old.rate_rps, need.rate_rps if need else None, policy.fast_window_s),
        capacities=need.capacities if need else old.capacities,
        cores_each=0.0 if on_gpu else float(seen.threads),
        bytes_each=rungs[rung].bytes_each if rungs else seen.memory_copy_bytes or old.bytes_each,
        held_bytes=kept if rungs else None,
        second_bytes=taken - kept if rungs else None,
        rungs=rungs,
        rung=rung,
        load_s=need.load_s if need else old.load_s or policy.load_s,
    )


def _rungs(
    seen: Observation, policy: Policy, need: Need | None, old: Want
) -> tuple[tuple[Rung, ...], int]:
    """The model's rungs, and which of them is in force; empty where memory is not limited.

    Nothing tells by how much one version is better than the next: they are equally far apart.
    """
    now = served(seen)
    order = [v for v in policy.versions if v in seen.version_bytes]
    if now not in order:
        return (), 0
    known = {rung.version: rung.capacities for rung in old.rungs}
    by_version = need.by_version if need else known
    rungs = []
    for place, version in enumerate(order):
        below = order[place + 1] if place + 1 < len(order) else version
        rungs.append(
            Rung(
                version=version,
                bytes_each=seen.version_bytes[version],
                beside_bytes=seen.version_bytes[below] if below < version else None,
                quality=1.0 - place / len(order),
                capacities=by_version.get(version, {}),
            )
        )
    return tuple(rungs), order.index(now)


def _bytes(
    seen: Observation, in_flight: InFlight | None, held: int, second: int
) -> tuple[int, int]:
    """Bytes of all instances: when the change in flight is over, and at this moment."""

    def of(loaded: Iterable[int | None]) -> int:
        return sum(seen.version_bytes.get(version or 0, 0) for version in loaded)

    def loaded(settings: Settings) -> set[int | None]:
        return {served(seen) if version is None else version for version in settings.loaded}

    now = [] if seen.applied is None else [loaded(seen.applied)]
    if in_flight is not None:
        now += [loaded(in_flight.settings), loaded(in_flight.before)]
    kept = held * max(map(of, now), default=0)
    if in_flight is not None and in_flight.settings.in_place_of(in_flight.before):
        return kept, held * of(set().union(*now))
    return kept, kept + second * max(map(of, now), default=0)


def _averaged(before_rps: float, now_rps: float | None, window_s: float) -> float:
    """The averaged load after one more look; what is no noise of arrivals is taken at once."""
    if now_rps is None or not math.isfinite(now_rps):
        return before_rps
    noise_rps = math.sqrt(before_rps / window_s)
    if abs(now_rps - before_rps) > max(JUMP * before_rps, 4.0 * noise_rps):
        return now_rps
    return before_rps + NEW_PART * (now_rps - before_rps)
