"""What the demo plays: a model, an SLO, and a step of load above what the default carries. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perf import slo, traces
from perf.traces import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The demo's numbers.

    Attributes:
        model: the published variant that is served.
        sequence: tokens in each request.
        slo_s: on p99 latency.
        step_ratio: the high load as a multiple of what the static default carries.
        low_ratio: the low load, likewise.
        low_s, high_s: how long each part of the step lasts.
        capacity_budget_s: for measuring the static default.
        seed: of the arrivals.
        recovery_s: after the step, in which requests may be late: it cannot be foreseen, and until
            it is seen, an instance is loaded and the queue is drained nothing carries it.
        attainment_goal: what the controlled run should reach outside of the recovery.
    """

    model: str = "minilm_int8"
    sequence: int = 32
    slo_s: float = 0.15
    step_ratio: float = 1.3
    low_ratio: float = 0.4
    low_s: float = 12.0
    high_s: float = 45.0
    capacity_budget_s: float = 26.0
    seed: int = 20261121
    recovery_s: float = 5.0
    attainment_goal: float = 0.97


def settled_attainment(
    intended_s: NDArray[np.float64], latency_s: NDArray[np.float64], scenario: Scenario
) -> float:
    """Share (0 to 1) of the requests outside of the recovery that were within the SLO.

    Args:
        intended_s: float64 [n], seconds from the start of the trace.
        latency_s: float64 [n], seconds; inf where there was no good answer.
        scenario: says when the step is and how long the recovery may take.
    """
    after_step_s = intended_s - scenario.low_s
    settled = (after_step_s < 0.0) | (after_step_s >= scenario.recovery_s)
    return slo.slo_attainment(latency_s[settled], scenario.slo_s)


def step_trace(scenario: Scenario, capacity_rps: float) -> Trace:
    """Poisson arrivals at low → high → low, as multiples of the measured capacity."""
    low, high = scenario.low_ratio * capacity_rps, scenario.step_ratio * capacity_rps
    return traces.steps(
        ((low, scenario.low_s), (high, scenario.high_s), (low, scenario.low_s)),
        seed=scenario.seed,
    )
