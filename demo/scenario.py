"""What the demo plays: the arrivals of its three acts, chosen by what was measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from perf import traces
from perf.traces import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What was measured, requests/s.

    Attributes:
        default: what Triton's default answers with a full queue, INT8, whatever the latency.
        cheap: what INT8 carries within the SLO, as set by hand.
        best: what fp32 carries within the SLO, with the same settings.
    """

    default: float
    cheap: float
    best: float

    @property
    def faster(self) -> float:
        """How many times as many requests INT8 carries as fp32."""
        return self.cheap / self.best


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The demo's numbers.

    Attributes:
        model: the published model; its versions are the variants.
        sequence: tokens in each request.
        slo_s: on p99 latency.
        seed: of the arrivals.
        cold_s: from a cold start on, in which requests of act 1 are not compared.
        tuned_low_s, tuned_high_s: lengths of act 1's step.
        tuned_low_share, tuned_share: its loads as shares of what the settings by hand carry.
        tuned_ratio, tuned_most: or this multiple of what the default answers, up to that share.
        rush_after_s, rush_s, calm_s: act 2: before, in and after the rush.
        rush_least, rush_ratio: the rush as a multiple of what fp32 carries: where INT8 allows it.
        rush_share, rush_most: and as a share of what INT8 carries: with ease, and at most.
        calm_ratio: the load outside of the rush, as a share of what fp32 carries.
        recovery_s: after the beginning of a rush, in which requests may be late: it cannot be
            foreseen.
        worth_it: INT8 must carry this many times as much for act 2 to be a fair show.
        faults_s: length of act 3; its load is ``faults_share`` of what the best settings carry.
        not_worse: act 1: how far below the best settings the interval may reach.
        attainment_goal, quality_goal: act 2: within the SLO outside of the recovery, and the share
            of the seconds outside of the rush at full quality.
    """

    model: str = "minilm"
    sequence: int = 32
    slo_s: float = 0.15
    seed: int = 20261130
    cold_s: float = 10.0
    tuned_low_s: float = 3.0
    tuned_high_s: float = 19.0
    tuned_low_share: float = 0.2
    tuned_share: float = 0.65
    tuned_ratio: float = 1.25
    tuned_most: float = 0.85
    rush_after_s: float = 10.0
    rush_s: float = 15.0
    calm_s: float = 33.0
    rush_least: float = 1.2
    rush_ratio: float = 1.6
    rush_share: float = 0.7
    rush_most: float = 0.95
    calm_ratio: float = 0.35
    recovery_s: float = 3.0
    worth_it: float = 1.3
    faults_s: float = 25.0
    faults_share: float = 0.25
    not_worse: float = 0.01
    attainment_goal: float = 0.99
    quality_goal: float = 0.9

    @property
    def rush(self) -> tuple[float, float]:
        """When the rush begins and ends, s."""
        return self.rush_after_s, self.rush_after_s + self.rush_s


def tuned_trace(scenario: Scenario, carried: Carried, *, seed: int) -> Trace:
    """Act 1: low, then what well-set settings carry with a reserve."""
    low = scenario.tuned_low_share * carried.cheap
    high = max(scenario.tuned_share * carried.cheap, scenario.tuned_ratio * carried.default)
    high = min(high, scenario.tuned_most * carried.cheap)
    levels = ((low, scenario.tuned_low_s), (high, scenario.tuned_high_s))
    return traces.steps(levels, seed=seed)


def rush_trace(scenario: Scenario, carried: Carried) -> Trace:
    """Act 2: calm, a rush beyond what fp32 carries, calm."""
    calm = scenario.calm_ratio * carried.best
    rush = max(scenario.rush_least * carried.best, scenario.rush_share * carried.cheap)
    rush = min(rush, scenario.rush_ratio * carried.best, scenario.rush_most * carried.cheap)
    rush = max(rush, calm)
    levels = ((calm, scenario.rush_after_s), (rush, scenario.rush_s), (calm, scenario.calm_s))
    return traces.steps(levels, seed=scenario.seed)


def faults_trace(scenario: Scenario, carried: Carried) -> Trace:
    """Act 3: a light load."""
    rate = scenario.faults_share * carried.cheap
    return traces.poisson(rate, scenario.faults_s, seed=scenario.seed)
