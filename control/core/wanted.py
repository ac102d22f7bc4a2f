"""What the load calls for: the capacity that is needed, and the fewest instances that have it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from control.core import queueing, shortage
from control.core.demand import Demand
from control.core.planner import Knowledge, fewest
from control.core.second_copy import ScaleUp
from control.core.service_time import ServiceTime
from control.core.state import ControlState
from control.core.types import Reason, Settings

LOADS_KEPT = 5.0
"""Patience is at least this many load times: instances that load slowly are let go late."""
SEEN_AND_DRAINED_S = 2.0
"""What it takes to see a burst and to drain what it left, beside the loading."""
LEVEL_OF_LOAD = 1.5
"""The level that bursts are held upon is at most this many times the load that is there now."""
LEVEL_KEPT = 0.5
"""No instance is added for bursts while less than this share of the last minute's load comes."""
OUT_OF_REACH = 0.5
"""Where no count keeps the SLO, instances are counted by this share of their throughput: the queue
must not grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the load calls for, before reason and guard.

    Attributes:
        demand: the load.
        need_rps: what the capacity must be.
        held_rps: of that, for bursts that came before, or the headroom that the policy asks for.
        capacities: Λ by instance count, of those that were too few at most what was seen.
        needed: the fewest instances that carry the need.
        at_least: of these, what the load needs for sure, or a panic; the patience looks at it.
        hold: the most that were needed over the patience.
        load_s: how long an instance takes to load.
        patience_s: how long a smaller count must have been enough.
        panic: the backlog alone takes more than half the SLO to drain.
        fresh: whether a scale up is made by a second copy.
        reachable: whether any count keeps the SLO at any load; ``capacities`` are shares of the
            throughput where none does.
        for_bursts: whether more than is applied is needed for bursts that came before alone.
    """

    demand: Demand
    need_rps: float
    held_rps: float
    capacities: dict[int, float]
    needed: int
    at_least: int
    hold: int
    load_s: float
    patience_s: float
    panic: bool
    fresh: bool
    reachable: bool = True
    for_bursts: bool = False

    @property
    def overloaded(self) -> bool:
        """Whether no allowed count carries the need."""
        return self.capacities[self.needed] < self.need_rps

    @property
    def steady(self) -> Reason:
        """Why nothing is changed where the count fits."""
        return Reason.HOLD_STEADY if self.reachable else Reason.AT_LIMIT


def wanted(
    state: ControlState, demand: Demand, known: Knowledge, applied: Settings, *, at_s: float
) -> Wanted:
    """The instances that the load calls for, with these settings of the batching."""
    policy = known.policy
    load_s = state.load_s(policy)
    patience_s = max(policy.quiet_s, LOADS_KEPT * load_s)
    capacities = shortage.capped(known.capacities(applied), state.shortages, applied, at_s=at_s)
    reachable = any(carried > 0 for carried in capacities.values())
    if not reachable:
        capacities = {
            count: OUT_OF_REACH * known.throughput_rps(applied, count) for count in capacities
        }
    held_rps = _held_rps(state, demand, known, capacities, load_s=load_s, at_s=at_s)
    need_rps = max(demand.sized_rps(capacities[applied.instances]), held_rps)
    panic = demand.drain_s > policy.slo_s / 2
    if panic:  # what waits is evidence of a greater load: its mean counts, not its lower bound
        need_rps = max(need_rps, demand.fast_rps)
    needed = fewest(capacities, need_rps)
    at_least = fewest(capacities, demand.load_rps)
    if panic:  # more instances never hurt a backlog as long as they add capacity at all
        needed = max(needed, applied.instances)
        at_least = max(at_least, needed)  # fewer were not enough: not for the patience, either
    before = (count for at, count in state.wanted if at > at_s - patience_s)
    return Wanted(
        demand=demand,
        need_rps=need_rps,
        held_rps=held_rps,
        capacities=capacities,
        needed=needed,
        at_least=at_least,
        hold=max(at_least, fewest(capacities, held_rps), *before),
        load_s=load_s,
        patience_s=patience_s,
        panic=panic,
        fresh=needed > applied.instances
        and _scale_up(state, demand, known, applied, needed, load_s=load_s, panic=panic).by_copy(),
        reachable=reachable,
        for_bursts=not panic
        and policy.headroom <= 1.0
        and needed > applied.instances
        and capacities[applied.instances] >= demand.sized_rps(capacities[applied.instances]),
    )


def _scale_up(
    state: ControlState,
    demand: Demand,
    known: Knowledge,
    applied: Settings,
    needed: int,
    *,
    load_s: float,
    panic: bool,
) -> ScaleUp:
    """The change from the applied count to the needed one, to see how it is made best."""
    before, after = applied.instances, max(needed, applied.instances)
    before_rps = known.throughput_rps(applied, before)
    return ScaleUp(
        rate_rps=demand.at_most_rps(before_rps, panic=panic),
        excess=demand.excess,
        before_rps=before_rps,
        after_rps=known.throughput_rps(applied, after),
        both_rps=known.throughput_rps(applied, before + after),
        share=after / (before + after),
        load_s=load_s,
        reload_s=state.reload_s(known.policy),
        slo_s=known.policy.slo_s,
    )


def _held_rps(
    state: ControlState,
    demand: Demand,
    known: Knowledge,
    capacities: dict[int, float],
    *,
    load_s: float,
    at_s: float,
) -> float:
    """The load to hold instances for beside the present one; 0 for none."""
    policy = known.policy
    level_rps = min(state.headroom.level_rps(), demand.load_rps)
    learnt_rps = state.headroom.held_rps(
        allowed_fraction=1.0 - policy.slo_target_fraction,
        loss_s=load_s + SEEN_AND_DRAINED_S,
        carried_rps=capacities[fewest(capacities, level_rps)],
        at_s=at_s,
        most_rps=LEVEL_OF_LOAD * demand.load_rps,
    )
    if policy.headroom <= 1.0:
        return learnt_rps
    now_rps = max(demand.load_rps, demand.stable_rps)
    return max(learnt_rps, policy.headroom * min(state.headroom.climbed_rps(), now_rps))


def load_ends(state: ControlState, want: Wanted, *, at_s: float) -> bool:
    """Whether the load has just fallen: what it was before looks like a burst then."""
    level_rps = state.headroom.level_rps()
    if min(want.demand.fast_rps, want.demand.stable_rps) < LEVEL_KEPT * level_rps:
        return True
    return any(
        change.before is not None
        and change.settings.instances < change.before.instances
        and at_s - change.at_s < want.patience_s
        for change in state.changes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the model of the queue says of the latency, in seconds."""

    mean_s: float
    p99_s: float


def expected(
    service: ServiceTime, settings: Settings, instances: int, rate_rps: float
) -> Expected | None:
    """Mean and p99 of the latency at this load; None where it cannot be said.

    Load and curve are rounded to 4 %, so that a table of earlier answers serves.
    """
    if not 0.0 < rate_rps < math.inf or service.of(1) <= 0:
        return None
    return _expected(
        service.rounded(ROUNDED),
        instances,
        settings.largest_batch,
        settings.max_queue_delay_s,
        round(math.log(rate_rps) / ROUNDED),
    )


ROUNDED = 0.04


@functools.lru_cache(maxsize=4096)
def _expected(
    service: ServiceTime, instances: int, largest_batch: int, delay_s: float, rate_step: int
) -> Expected:
    """The prediction behind ``expected``."""
    predicted = queueing.predict(
        math.exp(rate_step * ROUNDED),
        service,
        instances=instances,
        largest_batch=largest_batch,
        max_queue_delay_s=delay_s,
    )
    return Expected(mean_s=float(predicted.latency_s.mean()), p99_s=predicted.p99_s)
