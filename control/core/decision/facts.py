"""Facts: everything that a decision on one look is made from, as one value.

``gather`` takes a look into the memory and works out what follows from it, once and in this order:
what is known of the model, the load, the need, what other versions and another batching would do.
Proposers and guard read it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from control.core.load import demand as demands
from control.core.load import windows
from control.core.memory.bounds import least_batch_limit
from control.core.memory.state import ControlState, Loads
from control.core.need import better_version, cached
from control.core.need.base import BasePlan, plan_if_due
from control.core.need.better_version import Outlook
from control.core.need.wanted import Wanted, wanted
from control.core.policy import MIN_INSTANCES, Policy
from control.core.queue_model.knowledge import Knowledge
from control.core.types import Need, Observation, Settings

WARM_FRACTION = 0.8
"""Of a stable window that looks must cover before anything but a backlog may change."""
ALIKE = 0.02
"""Loads are remembered in steps of this share: of a slow fall only some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedFacts:
    """What follows from the load, where at least one batch was ever executed.

    Attributes:
        known: what plans are made from.
        want: the instances that the load calls for.
        versions: what other versions would do.
        plan: another batching, where one is due.
    """

    known: Knowledge
    want: Wanted
    versions: Outlook
    plan: BasePlan | None

    @property
    def told(self) -> Need:
        """For the budget, and for whoever reads the decision."""
        return replace(self.want.need, by_version=self.versions.capacities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at one look.

    Attributes:
        state: the memory, with the look taken in.
        seen: the look.
        applied: what is in force.
        policy: what the owner wants.
        fast_rps: mean arrivals over the fast window.
        need: what follows from the load; None without a single executed batch, and for the rules of
            others, which have a need of their own.
    """

    state: ControlState
    seen: Observation
    applied: Settings
    policy: Policy
    fast_rps: float = 0.0
    need: NeedFacts | None = None

    @property
    def warm(self) -> bool:
        """Whether the intervals cover (almost) one stable window since the start."""
        return is_warm(self.state, self.policy)

    @property
    def surplus(self) -> int:
        """Instances beyond the model's share of the budget; its written least is always its own."""
        if self.seen.cap is None:
            return 0
        least = 1 if MIN_INSTANCES in self.policy.unwritten else self.policy.min_instances
        return max(0, self.applied.instances - max(self.seen.cap, least))


def gather(
    state: ControlState, seen: Observation, policy: Policy
) -> tuple[ControlState, Facts | None, tuple[str, ...]]:
    """The memory after the look, the facts, and the parts that are missing; None where some are."""
    before = state.intervals
    state = state.absorb(seen, policy)
    applied = seen.applied
    fast_rps = windows.newest_rps(
        state.intervals, before, window_s=policy.fast_window_s, at_s=seen.at_s
    )
    missing = _missing(state, seen, fast_rps)
    if missing or applied is None or fast_rps is None:
        return state, None, missing
    facts = Facts(state=state, seen=seen, applied=applied, policy=policy, fast_rps=fast_rps)
    known = _known(facts)
    if known is None:
        return state, facts, ()
    service = known.service(applied.instances, seen.threads)
    demand = demands.measure(
        state.intervals, seen, policy, applied=applied, service=service, fast_rps=fast_rps
    )
    if state.intervals != before:
        state = replace(state, budget=state.budget.absorb(state.intervals[-1], policy))
    want = wanted(state, demand, known, applied, at_s=seen.at_s)
    state = _remember(state, seen.at_s, want, seen.cap)
    versions = better_version.look(state, seen, applied, want, known)
    state = cached.judged(replace(state, versions=versions.memory), applied, known)
    plan = plan_if_due(state, seen, applied, want, known, warm=is_warm(state, policy))
    if plan is not None and not plan.pays(applied):  # else until it is in force
        state = replace(state, planned_s=seen.at_s)
    need = NeedFacts(known=known, want=want, versions=versions, plan=plan)
    return state, replace(facts, state=state, need=need), ()


def is_warm(state: ControlState, policy: Policy) -> bool:
    """Whether the intervals cover (almost) one stable window since the start."""
    if not state.intervals:
        return False
    newest_s = state.intervals[-1].end_s
    covered_s = windows.covered_s(state.intervals, window_s=policy.stable_window_s, at_s=newest_s)
    return covered_s >= WARM_FRACTION * policy.stable_window_s


def _missing(state: ControlState, seen: Observation, fast_rps: float | None) -> tuple[str, ...]:
    """Which parts of the look are missing; ``newest`` is the interval that ends with its sample."""
    newest = state.intervals[-1] if state.intervals else None
    parts = {
        "counters": seen.counters,
        "statistics": seen.statistics,
        "applied": seen.applied,
        "rate": fast_rps,
        "newest": newest if newest is not None and newest.end_s == seen.sampled_s else None,
    }
    return tuple(name for name, value in parts.items() if value is None)


def _known(facts: Facts) -> Knowledge | None:
    """What plans are made from; None without a single executed batch."""
    state, seen, applied, policy = facts.state, facts.seen, facts.applied, facts.policy
    if state.learnt.at(applied.instances, threads=seen.threads, cores=policy.cores) is None:
        return None
    return Knowledge(
        learnt=state.learnt,
        policy=policy,
        threads=seen.threads,
        threads_ours=seen.threads_ours,
        can_rebatch=seen.can_rebatch and applied.max_batch_size > 0,
        least_batch_size=least_batch_limit(seen),
        refuses=policy.refuse_late if _may_refuse(state, seen) else None,
        shares_slots=seen.slots is not None,
    )


def _may_refuse(state: ControlState, seen: Observation) -> bool:
    """Whether the waiting is ours to limit: the owner's configuration says nothing of it."""
    return seen.may_refuse and (state.owner is None or state.owner.refuse_after_s is None)


def _remember(state: ControlState, at_s: float, want: Wanted, cap: int | None) -> ControlState:
    """The memory with this look's load, and since when the budget is short."""
    short = cap is not None and want.needed > cap
    since_s = at_s if state.short_since_s is None else state.short_since_s
    return replace(
        state,
        loads=_remembered(state.loads, at_s, want.called_rps),
        peak_rps=max(state.peak_rps, want.demand.load_rps),
        short_since_s=since_s if short else None,
    )


def _remembered(loads: Loads, at_s: float, rps: float) -> Loads:
    """The loads with the newest, rounded; of earlier ones only those that were greater."""
    if rps > 0.0:
        rps = math.exp(math.floor(math.log(rps) / ALIKE) * ALIKE)
    return (*(load for load in loads if load[1] > rps), (at_s, rps))
