"""Clipper's adaptive batching: additive increase, multiplicative decrease of the batch size.

While the latency objective is met the largest batch grows by a fixed step; once it is missed it
shrinks by 10 %. ``aimd-batching`` leaves the instance count as it is; ``aimd-batching-hpa`` has
Kubernetes' HPA on utilisation beside it.

Source: Crankshaw et al., Clipper: a low-latency online prediction serving system, NSDI 2017, arXiv
1612.03079, section 4.3.1.

Differences: Clipper changes the size between two batches at no cost. Triton needs a full reload for
it, so a change waits for ``cooldown_s`` after the last one and for a whole window of its own; and
the latency is that of requests (p99 where Triton's summaries are on, else the mean) instead of one
batch's, which would never see the queue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from control.core.memory.bounds import least_batch_limit
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines import hpa
from control.core.rules.baselines.signals import absorbed, asked, held, no_data, signals, trusted
from control.core.types import Decision, Observation, Settings

SOURCE = "Clipper (NSDI 2017, arXiv 1612.03079), adaptive batching"
GRID: Mapping[str, Sequence[float]] = {"step": (1, 2, 4, 8), "cooldown_s": (15.0, 30.0, 60.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aimd:
    """What the rule remembers: when the size was changed, and what the HPA beside it knows."""

    changed_s: float | None = None
    beside: hpa.HpaMemory = field(default_factory=hpa.HpaMemory)


@dataclass(frozen=True, slots=True, kw_only=True)
class AimdBatching:
    """Feel for the largest batch that the objective allows; the count stays.

    Attributes:
        step: added to the largest batch while the objective is met.
        backoff_fraction: taken off it when it is missed.
        window_s: over which the latency is averaged.
        cooldown_s: least time between two changes of the size; each is a reload.
    """

    name: str = "aimd-batching"
    step: int = 2
    backoff_fraction: float = 0.1
    window_s: float = 10.0
    cooldown_s: float = 30.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """One step when the cooldown is over."""
        return _decide(self, None, state, seen, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class AimdBatchingHpa:
    """Feel for the largest batch; Kubernetes' HPA on utilisation sets the count.

    Attributes:
        step, backoff_fraction, window_s, cooldown_s: see ``AimdBatching``.
        target: utilisation that the HPA keeps; its other options have their defaults.
    """

    name: str = "aimd-batching-hpa"
    step: int = 2
    backoff_fraction: float = 0.1
    window_s: float = 10.0
    cooldown_s: float = 30.0
    target: float = 0.7

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """One step of the size, one sync of the HPA, each in its own time."""
        sizes = AimdBatching(
            step=self.step,
            backoff_fraction=self.backoff_fraction,
            window_s=self.window_s,
            cooldown_s=self.cooldown_s,
        )
        return _decide(sizes, hpa.options_for(self.target), state, seen, policy)


def next_size(size: int, rule: AimdBatching, *, latency_s: float, slo_s: float) -> int:
    """The batch size after one look at the latency; at least 1.

    Example:
        With a step of 2, 10 becomes 12 within the objective and floor(10 · 0.9) = 9 beyond it.
    """
    if latency_s <= slo_s:
        return size + rule.step
    return max(1, math.floor(round(size * (1.0 - rule.backoff_fraction), 9)))


def _decide(
    rule: AimdBatching,
    counts: hpa.HpaOptions | None,
    state: ControlState,
    seen: Observation,
    policy: Policy,
) -> tuple[Decision, ControlState]:
    """The decision of both parts as one change."""
    state = absorbed(state, seen, policy, window_s=max(rule.window_s, hpa.RESOLUTION_S))
    window = signals(state, seen.sampled_s, rule.window_s)
    slow = signals(state, seen.sampled_s, hpa.RESOLUTION_S)
    applied = seen.applied
    if applied is None or window is None or slow is None or not trusted(state, seen):
        return no_data(seen), state
    if window.span_s < 0.8 * rule.window_s:
        return held(seen, Reason.HOLD_WARMING_UP, window.terms), state
    memory = state.memory if isinstance(state.memory, Aimd) else Aimd()
    latency_s = window.request_s if seen.request_p99_s is None else seen.request_p99_s
    terms = {**window.terms, "latency_s": latency_s, "slo_s": policy.slo_s}
    wanted = applied
    if _may_change(rule, memory, state, seen, applied) and latency_s > 0:
        size = next_size(applied.largest_batch, rule, latency_s=latency_s, slo_s=policy.slo_s)
        size = max(least_batch_limit(seen), min(size, policy.max_batch_size))
        wanted = replace(applied, max_batch_size=size, dynamic_batching=True)
        terms["wanted_batch_size"] = float(size)
    count = applied.instances
    if counts is not None and hpa.is_covered(slow, hpa.RESOLUTION_S):
        metric = slow.utilisation_fraction
        asked_for, beside, used = hpa.wanted(
            memory.beside, metric, applied.instances, counts, state, seen.at_s
        )
        memory = replace(memory, beside=beside)
        terms |= {f"hpa_{name}": value for name, value in used.items()}
        count = applied.instances if asked_for is None else asked_for
    decision = asked(state, seen, policy, applied, count=count, terms=terms, settings=wanted)
    if decision.changes and wanted != applied:
        memory = replace(memory, changed_s=seen.at_s)
    return decision, replace(state, memory=memory)


def _may_change(
    rule: AimdBatching, memory: Aimd, state: ControlState, seen: Observation, applied: Settings
) -> bool:
    """Whether the size may change: it can, and the window has seen nothing but the present one."""
    if not seen.can_rebatch or applied.max_batch_size < 1:
        return False
    ended_s = state.changes[-1].at_s if state.changes else None
    if ended_s is not None and seen.at_s - ended_s < rule.window_s:
        return False
    return memory.changed_s is None or seen.at_s - memory.changed_s >= rule.cooldown_s
