"""Knative's Pod Autoscaler on concurrency: requests that wait or are worked on, per instance.

Each 2 s: wanted = ceil(concurrency / target) over a stable window of 60 s and over a panic window
of 6 s, each within [present / 2, 1000 · present]. Panic begins when the panic window alone wants
twice what is there or more; in panic the greatest count so far holds, until 60 s have passed
without the trigger. A controller that starts with more than one instance starts in panic, so that
the missing history does not scale it down. The target is 70 % of the container concurrency.

A batch server makes it bistable: at light load few requests are in flight however slow it is, so it
goes to the floor; then a backlog builds, and panic overshoots.

Source: knative/serving, pkg/autoscaler/scaling/autoscaler.go (``Scale``) and the defaults of
config/core/configmaps/autoscaler.yaml.

Differences: the container concurrency is the largest batch unless it is given, as an instance has
no limit of its own; concurrency is the mean of waiting requests at the looks plus that of executing
ones from the statistics, instead of a queue proxy's count; no activator and no scale to zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines.signals import (
    Signals,
    absorbed,
    asked,
    held,
    no_data,
    signals,
    trusted,
)
from control.core.types import Decision, Observation

SOURCE = "Knative Serving, pkg/autoscaler/scaling/autoscaler.go"
GRID: Mapping[str, Sequence[float]] = {
    "target_concurrency": (1.0, 2.0, 3.0, 4.0, 5.6, 8.0, 12.0),
    "stable_window_s": (20.0, 60.0),
    "scale_down_delay_s": (0.0, 30.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpa:
    """What the autoscaler remembers.

    Attributes:
        synced_s: when it last scaled; None before the first time.
        panic_s: when the trigger was last seen; None in stable mode.
        panic_count: the greatest count of this panic.
        wanted: (at_s, count) over the scale down delay.
    """

    synced_s: float | None = None
    panic_s: float | None = None
    panic_count: int = 0
    wanted: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnativeKpa:
    """Keep a target concurrency per instance; panic when it doubles.

    Attributes:
        container_concurrency: requests that an instance may hold; 0 for the largest batch.
        target_fraction: share of it that is kept.
        target_concurrency: the target itself; 0 for the product of the two above.
        stable_window_s, panic_window_s: of the two averages.
        panic_threshold: panic when the panic window wants this many times what is there.
        max_scale_up_rate, max_scale_down_rate: bounds of one step.
        tick_s: between two decisions.
        scale_down_delay_s: the greatest wish of this time holds the count up.
    """

    name: str = "knative-kpa"
    container_concurrency: float = 0.0
    target_fraction: float = 0.7
    target_concurrency: float = 0.0
    stable_window_s: float = 60.0
    panic_window_s: float = 6.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    tick_s: float = 2.0
    scale_down_delay_s: float = 0.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """One decision each ``tick_s``."""
        state = absorbed(state, seen, policy, window_s=self.stable_window_s)
        stable = signals(state, seen.sampled_s, self.stable_window_s)
        panic = signals(state, seen.sampled_s, self.panic_window_s)
        applied = seen.applied
        if applied is None or stable is None or panic is None or not trusted(state, seen):
            return no_data(seen), state
        memory = self._memory(state, seen.at_s, applied.instances)
        target = self.target_concurrency or self.target_fraction * (
            self.container_concurrency or applied.largest_batch
        )
        terms = {
            **stable.terms,
            "stable_concurrency": stable.in_flight_count,
            "panic_concurrency": panic.in_flight_count,
            "target_concurrency": target,
        }
        if memory.synced_s is not None and seen.at_s - memory.synced_s < self.tick_s:
            return held(seen, Reason.HOLD_RULE, terms), replace(state, memory=memory)
        count, memory, used = self._scale(
            memory, stable, panic, target, applied.instances, seen.at_s
        )
        state = replace(state, memory=memory)
        terms |= used
        return asked(state, seen, policy, applied, count=count, terms=terms), state

    def _memory(self, state: ControlState, at_s: float, ready: int) -> Kpa:
        """The memory, or that of an autoscaler that starts now."""
        if isinstance(state.memory, Kpa):
            return state.memory
        return Kpa(panic_s=at_s if ready > 1 else None, panic_count=ready)

    def _scale(
        self, memory: Kpa, stable: Signals, panic: Signals, target: float, ready: int, at_s: float
    ) -> tuple[int, Kpa, dict[str, float]]:
        """The count for these concurrencies, the memory, and the numbers used."""
        ready = max(1, ready)
        most = math.ceil(self.max_scale_up_rate * ready)
        least = math.floor(ready / self.max_scale_down_rate)
        stable_count = math.ceil(stable.in_flight_count / target)
        panic_count = math.ceil(panic.in_flight_count / target)
        over = panic_count / ready >= self.panic_threshold
        since_s, greatest = memory.panic_s, memory.panic_count
        if over:
            since_s = at_s
        elif since_s is not None and since_s + self.stable_window_s < at_s:
            since_s, greatest = None, 0
        count = min(max(stable_count, least), most)
        if since_s is not None:
            count = max(count, min(max(panic_count, least), most))
            count = greatest = max(greatest, count)
        delayed = tuple(w for w in memory.wanted if w[0] > at_s - self.scale_down_delay_s)
        delayed = (*delayed, (at_s, count))
        count = max(wish for _, wish in delayed)
        terms = {
            "stable_instances": float(stable_count),
            "panic_instances": float(panic_count),
            "in_panic": float(since_s is not None),
            "panic_held_instances": float(greatest),
        }
        return (
            count,
            Kpa(synced_s=at_s, panic_s=since_s, panic_count=greatest, wanted=delayed),
            terms,
        )
