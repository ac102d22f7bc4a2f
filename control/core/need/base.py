"""The base configuration: what an expert would set, from measured service times.

Theory of operation. Candidates are the verified batch sizes up to the largest that was measured,
with the pairs of instances and threads that the cores carry. The one whose Λ is the greatest wins;
of those within ``LIKE`` of it the largest batch that takes at most half the SLO, as too small a
batch costs up to thirty times and too large a one at most half. Small batches and other threads
must carry surely more. The delay is 0: a queue fills
batches by itself. Only where executions take turns with other models' a small batch wastes a turn:
there requests wait for each other, once that is set. What was not measured is not planned on: until
then the configuration in force stays. The plan is made once, and again only where the load is not
carried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from control.core.memory.state import ControlState
from control.core.need.wanted import RESERVE, Wanted
from control.core.policy import MAX_BATCH_SIZE
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.types import Observation, Settings

LIKE = 0.05
"""Capacities within this share of the greatest are alike: the queue model errs by some 2 %, and the
service times of few batches by more."""
SURELY = 1.5
"""Times as much must be carried by what speaks against experience: a batch far below what half the
SLO allows, and other threads than the config has."""
QUIET = 0.1
"""Scatter of a batch's time, as a share of it, up to which that is believed at all."""
LEAST_GAIN = 1.2
"""Of capacity, for which a model is loaded anew: below it nobody can tell the difference."""
TRANSPORT_S = 0.002
"""From the client to the queue and back; measured 0.5 to 2 ms on loopback."""
SHARED_DELAY = 1 / 8
"""Of the SLO, for which requests wait for others to join their batch where executions take turns.
Simulated at all that two and three models carry: with half of it 0.5 to 0.8 are in time, with it
0.99, with twice as much 0.999."""
LEAST_WAIT = 0.1
"""Of the SLO; where a full batch alone takes nearly all of it, some may wait all the same."""
MEASURED_IN = 3.0
"""Stable windows in which the smaller batches are waited for, where there is a reserve."""
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
        begins_or_ends = (self.settings.refuse_after_s is None) != (applied.refuse_after_s is None)
        better = not self.settings.same_but_count(applied) and self.gain >= LEAST_GAIN
        joins = self.settings.max_queue_delay_s > 0.0 == applied.max_queue_delay_s
        return better or begins_or_ends or joins


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
    if not known.can_rebatch or not known.is_measured(applied):
        return None
    overloaded = want.overloaded or not want.reachable
    free = policy.rebatch and (MAX_BATCH_SIZE not in policy.unwritten or overloaded)
    if not free and not _limits_waiting(applied, known):
        return None
    if known.learnt.slow.shifting or (state.intervals and state.intervals[-1].old_copy_works):
        return None
    if not warm:
        watched_s = seen.at_s - max(state.settings_since_s, state.planned_s)
        if not (overloaded and want.panic and watched_s >= FIRST_PLAN_S):
            return None
    elif state.planned_s > state.settings_since_s:
        if not (overloaded and seen.at_s - state.planned_s >= policy.stable_window_s):
            return None
    elif (
        not known.all_sizes_measured
        and RESERVE * want.need_rps <= max(want.capacities.values())
        and seen.at_s - state.settings_since_s < MEASURED_IN * policy.stable_window_s
    ):
        return None
    return base_plan(applied, known, need_rps=want.need_rps, rebatch=free)


def base_plan(
    applied: Settings, known: Knowledge, *, need_rps: float, rebatch: bool = True
) -> BasePlan:
    """The best settings for this model, by measured service times.

    Args:
        applied: what is in force; must have a batch axis.
        known: service times and bounds.
        need_rps: the load, for which instances are had where idle ones have a price.
        rebatch: whether the batching may change; else only the limit of the waiting.
    """
    now_rps = max(known.capacities(applied).values())
    if not rebatch:
        waits = replace(applied, refuse_after_s=refuse_after_s(applied, known))
        if known.refuses:  # on Triton before 26.08 a limit and a delay together lose count
            waits = replace(waits, max_queue_delay_s=0.0)
        return BasePlan(settings=waits, capacity_rps=now_rps, applied_capacity_rps=now_rps)
    candidates = [
        candidate
        for threads, most in _shapes(applied, known)
        for candidate in _candidates(applied, known, threads, most, need_rps=need_rps)
    ]
    greatest_rps = max(one.capacity_rps for one in candidates)
    believed = _believed(candidates, known)
    alike = [one for one in believed if one.capacity_rps >= (1.0 - LIKE) * greatest_rps]

    def preferred(one: _Candidate) -> tuple[bool, int, float]:
        wanted = one.settings
        service = known.service(wanted.instances, wanted.threads or known.threads)
        in_half = service.of(wanted.max_batch_size) <= known.policy.slo_s / 2
        size = wanted.max_batch_size if in_half else -wanted.max_batch_size
        return in_half, size, one.capacity_rps

    best = max(alike, key=preferred) if alike else max(believed, key=lambda one: one.capacity_rps)
    return BasePlan(
        settings=best.settings,
        capacity_rps=best.capacity_rps,
        applied_capacity_rps=now_rps,
    )


class _Candidate(NamedTuple):
    """Settings, what they carry, and whether nothing that is known speaks against them."""

    capacity_rps: float
    settings: Settings
    usual: bool


def _candidates(
    applied: Settings, known: Knowledge, threads: int | None, most: int, *, need_rps: float
) -> list[_Candidate]:
    """Every batch size with these threads, at most so many instances."""
    found = []
    sizes = _sizes(applied, known)
    large = _large_enough(sizes, known, instances=most, threads=threads)
    enough_rps = need_rps if known.policy.idle_cost > 0.0 else math.inf
    for size in sizes:
        batching = replace(
            applied,
            max_batch_size=size,
            dynamic_batching=True,
            max_queue_delay_s=0.0,
            threads=threads,
            instances=most,
        )
        carried = {n: rps for n, rps in known.capacities(batching).items() if n <= most}
        chosen = replace(batching, instances=fewest(carried, enough_rps))
        chosen = replace(chosen, refuse_after_s=refuse_after_s(chosen, known))
        chosen = replace(chosen, max_queue_delay_s=_delay_s(chosen, applied, known))
        usual = size in large and applied.threads in (None, threads)
        found.append(_Candidate(max(carried.values()), chosen, usual))
    return found


def _believed(candidates: list[_Candidate], known: Knowledge) -> list[_Candidate]:
    """Those that experience speaks for, and of the others those that carry surely more.

    Nothing is sure where batches scatter: on cores that others use, too, long ones suffer most.
    """
    usual = [one for one in candidates if one.usual]
    if not usual:
        return candidates
    surely_rps = SURELY * max(one.capacity_rps for one in usual)
    scatter = known.service(1, known.threads).cv_fraction
    if not 0.0 < scatter <= QUIET:  # 0 is not known
        return usual
    return [one for one in candidates if one.usual or one.capacity_rps >= surely_rps]


def _large_enough(
    sizes: list[int], known: Knowledge, *, instances: int, threads: int | None
) -> list[int]:
    """Of the sizes those from half of the largest on that takes at most half the SLO.

    Where ℓ is a line, a smaller one carries a few hundredths more at best: an error of the times
    must not speak for it, as too small a batch costs up to thirty times.
    """
    service = known.service(instances, threads or known.threads)
    in_half = [size for size in sizes if service.of(size) <= known.policy.slo_s / 2]
    least = max(in_half) / 2 if in_half else sizes[0]
    return [size for size in sizes if size >= least]


def refuse_after_s(wanted: Settings, known: Knowledge) -> float | None:
    """For how long a request may wait and still be in time, in whole ms; None to let it wait.

    What waits for longer than S - ℓ(B) is late whatever is done. In an overload every answer has
    waited nearly as long as may be, so the SLO's margin is taken off.
    """
    if known.refuses is None:
        return wanted.refuse_after_s
    if not known.refuses or not wanted.dynamic_batching:
        return None
    service = known.service(wanted.instances, wanted.threads or known.threads)
    slo_s = known.policy.slo_s
    limit_s = slo_s * (1.0 - known.policy.margin_fraction)
    left_s = limit_s - service.of(wanted.largest_batch) - TRANSPORT_S
    return round(max(left_s, LEAST_WAIT * slo_s), 3)


def _delay_s(chosen: Settings, applied: Settings, known: Knowledge) -> float:
    """For how long requests wait for others to join them, in whole ms; once set, it stays.

    A batch that is full begins at once: a busy model waits for less.
    """
    if not known.shares_slots or chosen.refuse_after_s is not None:  # both together lose count
        return 0.0
    return applied.max_queue_delay_s or round(SHARED_DELAY * known.policy.slo_s, 3)


def _limits_waiting(applied: Settings, known: Knowledge) -> bool:
    """Whether the waiting is to be limited and is not, or the other way round."""
    if known.refuses is None or not applied.dynamic_batching:
        return False
    return known.refuses is not (applied.refuse_after_s is not None)


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
