"""Kubernetes' HPA on NVIDIA's own metric for Triton: time in the queue over time in inference.

``triton:queue_compute:ratio`` = rate(nv_inference_queue_duration_us[1m]) /
rate(nv_inference_compute_infer_duration_us[1m]), averaged over the pods, target 1. It is unbounded
near saturation, so a backlog asks for many times the instances and keeps them for 300 s; and it
counts a deliberate batching delay as queueing.

Source: triton-inference-server/tutorials, Deployment/Kubernetes,
TensorRT-LLM_Autoscaling_and_Load_Balancing (``triton-metrics_prometheus-rule.yaml``, metric type
Pods, averageValue 1000m); see ``control.core.rules.baselines.hpa``.

Differences: the time of input and output copies counts as inference.
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

SOURCE = "NVIDIA's Triton autoscaling tutorial: HPA on triton:queue_compute:ratio"
GRID: Mapping[str, Sequence[float]] = {
    "target": (0.1, 0.25, 0.5, 1.0, 2.0),
    "down_stabilisation_s": (60.0, 300.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaQueueCompute:
    """Kubernetes' HPA on time in the queue over time in inference.

    Attributes:
        target: ratio to keep.
        window_s: over which both rates are taken.
        tolerance, sync_s, down_stabilisation_s, up_fraction, up_count, up_period_s: see
            ``HpaOptions``.
    """

    name: str = "hpa-queue-compute"
    target: float = 1.0
    window_s: float = 60.0
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
        metric = window.queue_compute_ratio
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
