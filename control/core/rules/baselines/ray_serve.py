"""Ray Serve's autoscaler: ongoing requests per replica, and long agreement before a change.

wanted = n + factor · (n · ongoing / (n · target) - n), rounded up; ongoing requests are the waiting
and the executing ones, averaged over a look-back of 30 s and measured anew each 10 s. It acts when
every decision has agreed for the delay: 30 s to go up, 600 s to go down.

Source: ray-project/ray, python/ray/serve/autoscaling_policy.py
(``replica_queue_length_autoscaling_policy``, ``_apply_scaling_factors``, ``_apply_delay_logic``)
and the defaults of ``AutoscalingConfig``.

Differences: the agreement is counted in seconds instead of control loop periods of 0.1 s; no scale
to zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules.baselines.signals import absorbed, asked, no_data, signals, trusted
from control.core.types import Decision, Observation

SOURCE = "Ray Serve, python/ray/serve/autoscaling_policy.py"
GRID: Mapping[str, Sequence[float]] = {
    "target_ongoing_requests": (1.0, 2.0, 4.0, 8.0, 12.0),
    "upscale_delay_s": (0.0, 5.0, 30.0),
    "downscale_delay_s": (60.0, 600.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the autoscaler remembers.

    Attributes:
        measured_s: when the ongoing requests were measured last; None before the first time.
        ongoing_count: what they were.
        direction: 1 up, -1 down, 0 none.
        since_s: since when every decision has had this direction.
    """

    measured_s: float | None = None
    ongoing_count: float = 0.0
    direction: int = 0
    since_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServe:
    """Keep a number of ongoing requests per instance, with patience.

    Attributes:
        target_ongoing_requests: per instance.
        upscale_delay_s, downscale_delay_s: how long the decisions must agree.
        upscaling_factor, downscaling_factor: gain on the difference to the present count.
        metrics_interval_s: between two measurements.
        look_back_period_s: that a measurement averages.
    """

    name: str = "ray-serve"
    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """Act on what has been agreed on for long enough."""
        state = absorbed(state, seen, policy, window_s=self.look_back_period_s)
        window = signals(state, seen.sampled_s, self.look_back_period_s)
        applied = seen.applied
        if applied is None or window is None or not trusted(state, seen):
            return no_data(seen), state
        memory = state.memory if isinstance(state.memory, Agreement) else Agreement()
        if memory.measured_s is None or seen.at_s - memory.measured_s >= self.metrics_interval_s:
            memory = replace(memory, measured_s=seen.at_s, ongoing_count=window.in_flight_count)
        desired = self.desired(memory.ongoing_count, applied.instances)
        bounded = min(max(desired, policy.min_instances), policy.max_instances)
        direction = (bounded > applied.instances) - (bounded < applied.instances)
        if direction != memory.direction:
            memory = replace(memory, direction=direction, since_s=seen.at_s)
        agreed_s = seen.at_s - memory.since_s
        delay_s = self.upscale_delay_s if direction > 0 else self.downscale_delay_s
        count = bounded if agreed_s >= delay_s else applied.instances
        terms = {
            **window.terms,
            "ongoing_count": memory.ongoing_count,
            "target_ongoing_requests": self.target_ongoing_requests,
            "desired_instances": float(desired),
            "agreed_s": agreed_s,
            "delay_s": delay_s,
        }
        decision = asked(state, seen, policy, applied, count=count, terms=terms)
        if decision.changes:
            memory = replace(memory, direction=0, since_s=seen.at_s)
        return decision, replace(state, memory=memory)

    def desired(self, ongoing: float, current: int) -> int:
        """The count for that many ongoing requests.

        Example:
            5 ongoing requests, 2 instances and a target of 2 give ceil(2 + 1 · 0.5) = 3.
        """
        exact = ongoing / self.target_ongoing_requests
        change = exact - current
        factor = self.upscaling_factor if change > 0 else self.downscaling_factor
        scaled = math.ceil(round(current + factor * change, 9))
        if math.ceil(exact) < current and scaled == current:
            scaled -= 1  # a small factor must not keep it for ever
        return scaled
