"""The fewest constant instances that meet the SLO on a load, known only in hindsight."""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core.policy import Policy
from control.core.rules.baselines.static import Static
from perf import slo
from perf.bench.control.run import ControlRun
from perf.bench.control.scenarios import Scenario
from perf.bench.control.shell import simulate
from perf.bench.control.simulated import Actuation
from perf.bench.emulated import EmulatedModel

TARGET = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticBest:
    """The search's result.

    Attributes:
        instances: the fewest that attain the target; the most allowed when none does.
        run: with them.
        attainment: of that run.
        attainment_below: with one instance fewer; nan when there is no fewer. It is the proof that
            fewer would not have done.
    """

    instances: int
    run: ControlRun
    attainment: float
    attainment_below: float


def static_best(
    scenario: Scenario,
    policy: Policy,
    *,
    model: EmulatedModel,
    actuation: Actuation | None = None,
    target: float = TARGET,
) -> StaticBest:
    """Try one count after the other, from the fewest allowed, on this very load and seed."""
    below = float("nan")
    for count in range(policy.min_instances, policy.max_instances + 1):
        run = constant(scenario, policy, count=count, model=model, actuation=actuation)
        attained = slo.slo_attainment(run.latency_s, run.slo_s)
        if attained >= target or count == policy.max_instances:
            break
        below = attained
    return StaticBest(instances=count, run=run, attainment=attained, attainment_below=below)


def constant(
    scenario: Scenario,
    policy: Policy,
    *,
    count: int,
    model: EmulatedModel,
    actuation: Actuation | None = None,
) -> ControlRun:
    """The load on so many instances from the warm-up's start to the end."""
    return simulate(
        Static(count=count),
        policy,
        replace(scenario, instances=count),
        model=model,
        actuation=actuation,
        label=f"static(count={count})",
    )
