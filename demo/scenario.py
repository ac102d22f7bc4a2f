"""What the demo plays: a model, an SLO, and a step of load above what the default carries. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from perf import traces
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
        attainment_goal: what the controlled run should reach.
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
    attainment_goal: float = 0.97


def step_trace(scenario: Scenario, capacity_rps: float) -> Trace:
    """Poisson arrivals at low → high → low, as multiples of the measured capacity."""
    low, high = scenario.low_ratio * capacity_rps, scenario.step_ratio * capacity_rps
    return traces.steps(
        ((low, scenario.low_s), (high, scenario.high_s), (low, scenario.low_s)),
        seed=scenario.seed,
    )
