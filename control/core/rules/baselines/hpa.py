"""The arithmetic of Kubernetes' HorizontalPodAutoscaler, for every rule that is built on it.

Per sync: wanted = ceil(ready · metric / target), or the present count while the ratio is within the
tolerance of 1. Up: no stabilisation, at most the larger of +100 % and +4 in 15 s. Down: any number,
but to the greatest recommendation of the last 300 s; the count at the start is the first
recommendation, so nothing goes down within 300 s of it.

Source: kubernetes/kubernetes, pkg/controller/podautoscaler (horizontal.go, replica_calculator.go)
and the defaults of autoscaling/v2 ``HorizontalPodAutoscalerBehavior``.

Differences: an instance serves as soon as it is applied, so there are no unready pods to set aside;
and a sync that would fall into a change in flight waits for its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines.signals import Signals, asked, held
from control.core.types import Decision, Observation, Settings

RESOLUTION_S = 15.0
"""How often Kubernetes' metrics-server measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaOptions:
    """How the autoscaler syncs and damps.

    Attributes:
        target: of the metric, per instance.
        tolerance: of the ratio metric / target around 1 within which nothing is done.
        sync_s: least time between two looks at the metric.
        down_stabilisation_s: the greatest recommendation of this time holds the count up.
        up_fraction, up_count: an up step may add the larger of the two in ``up_period_s``.
        up_period_s: over which the up steps are counted.
    """

    target: float
    tolerance: float
    sync_s: float
    down_stabilisation_s: float
    up_fraction: float
    up_count: int
    up_period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaMemory:
    """What the autoscaler remembers.

    Attributes:
        synced_s: when it last looked at the metric; None before the first time.
        recommended: (at_s, count) over the down stabilisation.
        added: (at_s, instances added) over the up period.
    """

    synced_s: float | None = None
    recommended: tuple[tuple[float, int], ...] = ()
    added: tuple[tuple[float, int], ...] = ()


def options_for(target: float) -> HpaOptions:
    """Kubernetes' defaults with this target."""
    return HpaOptions(
        target=target,
        tolerance=0.1,
        sync_s=15.0,
        down_stabilisation_s=300.0,
        up_fraction=1.0,
        up_count=4,
        up_period_s=15.0,
    )


def is_due(memory: HpaMemory, options: HpaOptions, state: ControlState, at_s: float) -> bool:
    """Whether it is time for a sync."""
    if state.in_flight is not None:
        return False
    return memory.synced_s is None or at_s - memory.synced_s >= options.sync_s


def proposal(metric: float, current: int, options: HpaOptions) -> int:
    """ceil(current · metric / target), or ``current`` within the tolerance.

    Example:
        4 instances at 0.9 of a target of 0.7: ratio 1.29, so ceil(5.14) = 6.
    """
    ratio = metric / options.target
    if abs(ratio - 1.0) <= options.tolerance:
        return current
    return math.ceil(round(ratio * current, 9))


def synced(
    memory: HpaMemory, metric: float, current: int, options: HpaOptions, at_s: float
) -> tuple[int, HpaMemory, dict[str, float]]:
    """The count after one sync, the memory, and the numbers used."""
    first = ((at_s, current),) if memory.synced_s is None else ()
    proposed = proposal(metric, current, options)
    recommended = tuple(
        r
        for r in (*memory.recommended, *first, (at_s, proposed))
        if r[0] > at_s - options.down_stabilisation_s or r[0] == at_s
    )
    held_up = max(count for _, count in recommended)
    added = tuple(a for a in memory.added if a[0] > at_s - options.up_period_s)
    base = current - sum(count for _, count in added)
    limit = max(math.ceil(base * (1.0 + options.up_fraction)), base + options.up_count)
    count = min(max(current, proposed), held_up)
    if count > current:
        count = max(current, min(count, limit))
        added = (*added, (at_s, count - current))
    terms = {
        "metric": metric,
        "target": options.target,
        "ratio": metric / options.target,
        "proposed_instances": float(proposed),
        "stabilised_instances": float(held_up),
        "up_limit_instances": float(limit),
    }
    return count, HpaMemory(synced_s=at_s, recommended=recommended, added=added), terms


def is_covered(window: Signals, window_s: float) -> bool:
    """Whether enough was seen for a first metric: a resolution of 15 s, or the window itself."""
    return window.span_s >= 0.8 * min(window_s, RESOLUTION_S)


def wanted(
    memory: HpaMemory,
    metric: float,
    current: int,
    options: HpaOptions,
    state: ControlState,
    at_s: float,
) -> tuple[int | None, HpaMemory, dict[str, float]]:
    """The count that the autoscaler wants, None between syncs; the memory, and the numbers used."""
    if not is_due(memory, options, state, at_s):
        since_s = 0.0 if memory.synced_s is None else at_s - memory.synced_s
        return None, memory, {"since_sync_s": since_s}
    return synced(memory, metric, current, options, at_s)


def decided(
    metric: float,
    options: HpaOptions,
    state: ControlState,
    seen: Observation,
    policy: Policy,
    applied: Settings,
    window: Signals,
) -> tuple[Decision, ControlState]:
    """The decision of an autoscaler on this metric, and the memory with its own."""
    memory = state.memory if isinstance(state.memory, HpaMemory) else HpaMemory()
    count, memory, used = wanted(memory, metric, applied.instances, options, state, seen.at_s)
    state = replace(state, memory=memory)
    terms = {**window.terms, **used}
    if count is None:
        return held(seen, Reason.HOLD_RULE, terms), state
    return asked(state, seen, policy, applied, count=count, terms=terms), state
