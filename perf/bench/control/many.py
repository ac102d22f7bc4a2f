"""Several models under one budget on simulated servers, in lockstep: Conch and a fixed split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from control.core.budget.shares import Shares
from control.core.budget.want import Limit
from control.core.decision.decide import Conch
from control.core.memory.changes import InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.queue_model.capacity import capacity_rps
from control.core.service.learnt import ServiceTime
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision
from perf import slo, traces
from perf.bench.control import shell
from perf.bench.control.run import ChangeMade
from perf.bench.control.simulated import Actuation, SimulatedServer
from perf.bench.emulated import EmulatedModel

TICK_S = 1.0
WARM_UP_S = 60.0
LIGHT = 0.6
"""Load of the warm-up as a ratio of what the budget carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model that shares the budget.

    Attributes:
        model: its times.
        policy: SLO, bounds and weight.
        work_fraction: of all offered work; the split of instances is in proportion to it.
    """

    model: EmulatedModel
    policy: Policy
    work_fraction: float

    def carried_rps(self, instances: int) -> float:
        """What so many instances carry within the SLO, by the true service time."""
        return capacity_rps(
            ServiceTime(alpha_s=self.model.alpha_s, beta_s=self.model.beta_s),
            instances=instances,
            largest_batch=self.model.max_batch_size,
            max_queue_delay_s=0.0,
            policy=self.policy,
        )


def _member(name: str, scale: float, weight: float, work_fraction: float) -> Member:
    """A model whose times and SLO are ``scale`` times those of the comparison."""
    return Member(
        model=EmulatedModel(name=name, alpha_s=0.008 * scale, beta_s=0.032 * scale),
        policy=Policy(
            slo_s=0.4 * scale,
            max_instances=12,
            max_batch_size=8,
            cores=12,
            rebatch=False,
            load_s=3.0,
            weight=weight,
        ),
        work_fraction=work_fraction,
    )


MEMBERS = (
    _member("gold", 1.0, 3.0, 0.4),
    _member("silver", 0.5, 2.0, 0.35),
    _member("bronze", 2.0, 1.0, 0.25),
)
"""Weights 3, 2 and 1; SLO 400, 200 and 800 ms."""
INSTANCES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRun:
    """What came of one model.

    Attributes:
        attainment: share of its requests within its SLO.
        answered_fraction: of its requests, until the end of the load.
        least_instances: at any tick.
    """

    attainment: float
    answered_fraction: float
    least_instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRun:
    """One run of all models.

    Attributes:
        members: by name.
        weighted_attainment: mean of the attainments by weight.
        peak_instances: most that were applied or being loaded at once, over all models.
        changes: settings that were changed.
    """

    members: Mapping[str, MemberRun]
    weighted_attainment: float
    peak_instances: int
    changes: int


def proportional(members: Sequence[Member], instances: int) -> dict[str, int]:
    """Counts in proportion to the offered work, at least one each (largest remainders)."""
    exact = {m.model.name: m.work_fraction * instances for m in members}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in rest[: max(0, instances - sum(counts.values()))]:
        counts[name] += 1
    return counts


def run(
    members: Sequence[Member] = MEMBERS,
    *,
    instances: int = INSTANCES,
    overload: float = 1.3,
    duration_s: float = 300.0,
    seed: int = 0,
    conch: bool = True,
    actuation: Actuation | None = None,
) -> BudgetRun:
    """Play ``overload`` times what the budget carries, after a light warm-up that is not scored.

    Args:
        members: the models.
        instances: the budget; every run begins with the proportional split.
        overload: load as a ratio of what the proportional split carries within the SLO.
        duration_s: of the overload.
        seed: of arrivals and jitter.
        conch: whether Conch moves instances; else the split stays.
        actuation: how long changes take; as measured where None.
    """
    split = proportional(members, instances)
    seats = [
        _seat(member, split[member.model.name], overload, duration_s, seed, actuation)
        for member in members
    ]
    peak = lockstep(seats, instances=instances, start_s=-WARM_UP_S, end_s=duration_s, obey=conch)
    ends = {seat.member.model.name: seat.end(duration_s) for seat in seats}
    weights = [member.policy.weight for member in members]
    attained = [ends[member.model.name].attainment for member in members]
    return BudgetRun(
        members=ends,
        weighted_attainment=float(np.average(attained, weights=weights)),
        peak_instances=peak,
        changes=sum(seat.changes for seat in seats),
    )


def lockstep(
    seats: Sequence[Seat], *, instances: int, start_s: float, end_s: float, obey: bool
) -> int:
    """Look at each model once a second, and act; gives the most instances at once.

    Args:
        seats: the models; their servers begin at ``start_s``.
        instances: the budget.
        start_s, end_s: on the servers' time axis.
        obey: whether what is decided is done.
    """
    shares = Shares(
        limit=Limit(instances=instances),
        policies={seat.member.model.name: seat.member.policy for seat in seats},
    )
    peak = 0
    for tick in range(int((end_s - start_s) / TICK_S)):
        shares = shares.tick()
        for seat in seats:
            shares = seat.tick(start_s + tick * TICK_S, shares, obey=obey)
            peak = max(peak, sum(each.held for each in seats))
    return peak


@dataclass(slots=True, kw_only=True)
class Seat:
    """One model, its server, and what the core remembers of it."""

    member: Member
    server: SimulatedServer
    state: ControlState = field(default_factory=ControlState)
    acting: Decision | None = None
    begun_s: float = 0.0
    changes: int = 0
    least: int = 1_000_000

    @property
    def held(self) -> int:
        """Instances that are applied or being loaded."""
        wanted = self.acting.desired if self.acting else None
        return max(self.server.settings.instances, wanted.instances if wanted else 0)

    def step(self, event: Event) -> Decision | None:
        """Feed the core one event."""
        self.state, decision = step(Conch(), self.state, event, self.member.policy)
        return decision

    def tick(self, now_s: float, shares: Shares, *, obey: bool) -> Shares:
        """One look, decision, and the beginning of a change; the order is ``ControlLoop``'s."""
        name = self.member.model.name
        ended = self.server.ended(now_s) if self.acting else None
        if self.acting and ended:
            assert self.acting.applied is not None
            assert self.acting.desired is not None
            made = ChangeMade(
                begun_s=self.begun_s,
                ended_s=ended.at_s,
                reason=self.acting.reason.name,
                before=self.acting.applied,
                after=self.acting.desired,
                reload=ended.reload,
            )
            self.step(Ended(change=shell.applied(made, self.server.epoch_s + now_s)))
            self.acting = None
        seen = self.server.observe(now_s)
        seen = replace(seen, cap=shares.cap(name, seen))
        decision = self.step(Looked(seen=seen))
        assert decision is not None  # a look is always answered
        self.least = min(self.least, self.server.settings.instances)
        if obey and decision.changes and not self.acting:
            self._begin(decision, now_s)
        return shares.looked(name, seen, decision, self.state.in_flight)

    def _begin(self, decision: Decision, now_s: float) -> None:
        """Begin the change that was decided."""
        assert decision.desired is not None  # `changes` says so
        assert decision.applied is not None
        since_s = self.server.epoch_s + now_s
        change = InFlight(since_s=since_s, settings=decision.desired, before=decision.applied)
        self.step(Begun(change=change))
        self.server.begin(decision.desired, fresh=decision.fresh, at_s=now_s)
        self.acting, self.begun_s = decision, now_s
        self.changes += 1

    def end(self, duration_s: float) -> MemberRun:
        """Answer what still waits, and say what came of all."""
        self.server.finish()
        scored = self.server.arrival_s >= 0
        latency_s = self.server.latency_s()[scored]
        answered = self.server.arrival_s[scored] + latency_s <= duration_s
        return MemberRun(
            attainment=slo.slo_attainment(latency_s, self.member.policy.slo_s),
            answered_fraction=float(answered.mean()),
            least_instances=self.least,
        )


def _seat(
    member: Member,
    instances: int,
    overload: float,
    duration_s: float,
    seed: int,
    actuation: Actuation | None,
) -> Seat:
    """The model with its arrivals: ``overload`` times what its part of the split carries."""
    carried_rps = member.carried_rps(instances)
    trace = traces.steps(
        ((LIGHT * carried_rps, WARM_UP_S), (overload * carried_rps, duration_s)),
        seed=seed * 1000 + sum(member.model.name.encode()),
    )
    server = SimulatedServer(
        model=member.model,
        arrival_s=trace.arrival_s - WARM_UP_S,
        start_s=-WARM_UP_S,
        instances=instances,
        seed=seed,
        actuation=actuation or Actuation(),
    )
    return seated(member, server)


def seated(member: Member, server: SimulatedServer) -> Seat:
    """The model on its server, when a controller has just begun."""
    seat = Seat(member=member, server=server)
    seat.step(Started(at_s=server.epoch_s + server.start_s))
    return seat
