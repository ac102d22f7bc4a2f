"""Kubernetes' HPA on utilisation: the share of time that the instances work.

The default of most deployments. Greedy batching makes utilisation a poor signal: a single free
instance takes what waits, however little, so it looks busy far below its capacity. Within the
tolerance of 10 % a target of 0.91 or more can never scale up, as no instance is more than busy.

Source: see ``hpa``; a resource metric of type Utilization, target 70 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines import hpa
from control.core.rules.baselines.signals import absorbed, held, no_data, signals, trusted
from control.core.types import Decision, Observation

SOURCE = "Kubernetes HorizontalPodAutoscaler (autoscaling/v2), Utilization metric"
GRID: Mapping[str, Sequence[float]] = {
    "target": (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9),
    "down_stabilisation_s": (60.0, 300.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaUtilisation:
    """Kubernetes' HPA on utilisation, as most deployments have it.

    Attributes:
        target: utilisation to keep.
        window_s: over which the utilisation is averaged (metrics-server's resolution).
        tolerance, sync_s, down_stabilisation_s, up_fraction, up_count, up_period_s: see
            ``HpaOptions``.
    """

    name: str = "hpa-utilisation"
    target: float = 0.7
    window_s: float = 15.0
    tolerance: float = 0.1
    sync_s: float = 15.0
    down_stabilisation_s: float = 300.0
    up_fraction: float = 1.0
    up_count: int = 4
    up_period_s: float = 15.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """One sync each ``sync_s``."""
        state = absorbed(state, seen, policy, window_s=self.window_s)
        window = signals(state, seen.sampled_s, self.window_s)
        if window is None or seen.applied is None or not trusted(state, seen):
            return no_data(seen), state
        if not hpa.is_covered(window, self.window_s):
            return held(seen, Reason.HOLD_WARMING_UP, window.terms), state
        metric = window.utilisation_fraction
        return hpa.decided(metric, self._options, state, seen, policy, seen.applied, window)

    @property
    def _options(self) -> hpa.HpaOptions:
        """The shared part of the options."""
        return hpa.HpaOptions(
            target=self.target,
            tolerance=self.tolerance,
            sync_s=self.sync_s,
            down_stabilisation_s=self.down_stabilisation_s,
            up_fraction=self.up_fraction,
            up_count=self.up_count,
            up_period_s=self.up_period_s,
        )
