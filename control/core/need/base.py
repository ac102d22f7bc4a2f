"""The base configuration: what an expert would set, from measured service times.

Theory of operation. Candidates are the verified batch sizes up to the largest that was measured,
with the pairs of instances and threads that the cores carry. The one whose Λ is the greatest wins;
of those within ``LIKE`` of it the largest batch that takes at most half the SLO, as too small a
batch costs up to thirty times and too large a one at most half. The delay is 0: a queue fills
batches by itself. What was not measured is not planned on: until then the configuration in force
stays. The plan is made once, and again only where the load is not carried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.need.wanted import Wanted
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.types import Observation, Settings

LIKE = 0.05
"""Capacities within this share of the greatest are alike: the queue model errs by some 2 %, and the
service times of few batches by more."""
LEAST_GAIN = 1.2
"""Of capacity, for which a model is loaded anew: below it nobody can tell the difference."""
FIRST_PLAN_S = 2.0
"""A backlog that no count carries is answered after so long, before a stable window is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlan:
    """The chosen settings, and how they compare.

    Attributes:
        settings: what to run with.
        capacity_rps: Λ with it.
        applied_capacity_rps: the most that any instance count carries as it is now.
    """

    settings: Settings
    capacity_rps: float
    applied_capacity_rps: float

    @property
    def gain(self) -> float:
        """Capacity with the plan as a ratio of the capacity as it is."""
        if self.applied_capacity_rps <= 0:
            return math.inf if self.capacity_rps > 0 else 1.0
        return self.capacity_rps / self.applied_capacity_rps

    def pays(self, applied: Settings) -> bool:
        """Whether it is worth loading the model anew."""
        return not self.settings.same_but_count(applied) and self.gain >= LEAST_GAIN


def plan_if_due(
    state: ControlState,
    seen: Observation,
    applied: Settings,
    want: Wanted,
    known: Knowledge,
    *,
    warm: bool,
) -> BasePlan | None:
    """The base configuration where it is to be looked for now; None else.

    Once for the settings in force, and again each stable window in which no allowed count carries
    the load. Nothing is planned while an older copy takes its share, nor before the sizes that
    matter were measured.
    """
    policy = known.policy
    if not policy.rebatch or not known.can_rebatch or not known.is_measured(applied):
        return None
    if state.intervals and state.intervals[-1].old_copy_works:
        return None
    overloaded = want.overloaded or not want.reachable
    if not warm:
        watched_s = seen.at_s - max(state.settings_since_s, state.planned_s)
        if not (overloaded and want.panic and watched_s >= FIRST_PLAN_S):
            return None
    elif state.planned_s > state.settings_since_s and not (
        overloaded and seen.at_s - state.planned_s >= policy.stable_window_s
    ):
        return None
    return base_plan(applied, known, need_rps=want.need_rps)


def base_plan(applied: Settings, known: Knowledge, *, need_rps: float) -> BasePlan:
    """The best settings for this model, by measured service times.

    Args:
        applied: what is in force; must have a batch axis.
        known: service times and bounds.
        need_rps: the load, for which instances are had where idle ones have a price.
    """
    best: list[tuple[float, Settings]] = []
    for threads, most in _shapes(applied, known):
        for size in _sizes(applied, known):
            batching = replace(
                applied,
                max_batch_size=size,
                dynamic_batching=True,
                max_queue_delay_s=0.0,
                threads=threads,
                instances=most,
            )
            carried = {n: rps for n, rps in known.capacities(batching).items() if n <= most}
            enough_rps = need_rps if known.policy.idle_cost > 0.0 else math.inf
            count = fewest(carried, enough_rps)
            best.append((max(carried.values()), replace(batching, instances=count)))
    greatest = max(rps for rps, _ in best)
    alike = [(rps, wanted) for rps, wanted in best if rps >= (1.0 - LIKE) * greatest]

    def preferred(one: tuple[float, Settings]) -> tuple[bool, int, float]:
        rps, wanted = one
        service = known.service(wanted.instances, wanted.threads or known.threads)
        in_half = service.of(wanted.max_batch_size) <= known.policy.slo_s / 2
        return in_half, wanted.max_batch_size if in_half else -wanted.max_batch_size, rps

    capacity_rps, chosen = max(alike, key=preferred)
    return BasePlan(
        settings=chosen,
        capacity_rps=capacity_rps,
        applied_capacity_rps=max(known.capacities(applied).values()),
    )


def _shapes(applied: Settings, known: Knowledge) -> list[tuple[int | None, int]]:
    """(threads of an instance, most instances): on a CPU instances · threads = the cores."""
    policy = known.policy
    if not known.threads_ours:
        return [(applied.threads, max(policy.max_instances, 1))]
    shapes: list[tuple[int | None, int]] = []
    for threads in range(1, policy.cores + 1):
        most = min(policy.max_instances, max(1, policy.cores // threads))
        if most >= policy.min_instances:
            shapes.append((threads, most))
    return shapes or [(1, policy.min_instances)]


def _sizes(applied: Settings, known: Knowledge) -> list[int]:
    """Verified batch sizes that were measured: powers of two, the limit, and the one in force.

    Triton takes no batch beyond the limit in force: where all up to it were measured, the line
    through them is the best that can be known of larger ones. None below what ensembles and
    requests ask for.
    """
    limit, least = known.policy.max_batch_size, known.least_batch_size
    powers = [2**n for n in range(int(math.log2(max(1, limit))) + 1)]
    known_to = max(known.largest_measured, applied.largest_batch)
    if known.largest_measured >= applied.max_batch_size:
        known_to = max(known_to, limit)
    sizes = {size for size in (*powers, limit, applied.largest_batch) if size <= known_to}
    return sorted(size for size in {max(size, least) for size in sizes}) or [least]
