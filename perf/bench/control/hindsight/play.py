"""Conch's releases on simulated loads, each against the best ones in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from control.core.queue_model.knowledge import fewest
from control.core.rules import rule_named
from control.core.types import Decision
from perf import slo
from perf.bench.control import scenarios
from perf.bench.control.hindsight.best import Hindsight, hindsight, prices
from perf.bench.control.run import ControlRun
from perf.bench.control.shell import TICK_S, simulate
from perf.bench.control.side_by_side import in_processes

MAX_INSTANCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        load: one of ``scenarios.KINDS``.
        seed: of the arrivals.
        idle_cost: late requests an instance-hour; more than 0.
        duration_s: that is scored.
    """

    load: str
    seed: int
    idle_cost: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        case: the run.
        attainment: share of the requests within the SLO.
        found: its releases, the warm-up's too, against the best.
    """

    case: Case
    attainment: float
    found: Hindsight


@dataclass(slots=True)
class _Looks:
    """What each look saw: its time, and the fewest instances that carry what surely came."""

    at_s: list[float] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    capacities: dict[int, float] = field(default_factory=dict)

    def __call__(self, at_s: float, decision: Decision) -> None:
        """Note one; where the look says nothing of the load, what the last one said."""
        if decision.need is not None:
            self.capacities = dict(decision.need.capacities)
            count = fewest(self.capacities, decision.terms["load_rps"])
        else:
            count = self.needed[-1] if self.needed else 0
        self.at_s.append(at_s)
        self.needed.append(count)


def play(case: Case) -> Outcome:
    """One run, in this process."""
    policy = replace(
        scenarios.POLICY,
        max_instances=MAX_INSTANCES,
        cores=MAX_INSTANCES,
        idle_cost=case.idle_cost,
    )
    scene = scenarios.scenario(case.load, duration_s=case.duration_s, seed=case.seed, policy=policy)
    looks = _Looks()
    run = simulate(rule_named("conch"), policy, scene, model=scenarios.EMULATED, on_look=looks)
    return Outcome(
        case=case,
        attainment=slo.slo_attainment(run.latency_s, run.slo_s),
        found=hindsight(
            _had(run, looks.at_s, first=scene.instances),
            looks.needed,
            prices(
                looks.capacities,
                idle_cost=case.idle_cost,
                load_s=_load_s(run, policy.load_s),
            ),
            tick_s=TICK_S,
        ),
    )


def _had(run: ControlRun, looks_s: Sequence[float], *, first: int) -> list[int]:
    """The count by look: a change counts from its decision on."""
    changes, count, at, had = run.changes, first, 0, []
    for look_s in looks_s:
        while at < len(changes) and changes[at].begun_s <= look_s:
            count = changes[at].after.instances
            at += 1
        had.append(count)
    return had


def _load_s(run: ControlRun, unknown_s: float) -> float:
    """How long an instance took to load, as the controller tells it: the least of the changes."""
    took = [c.ended_s - c.begun_s for c in run.changes if c.after.instances > c.before.instances]
    return min(took, default=unknown_s)


def play_all(
    todo: Sequence[Case], *, on_done: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Every run, side by side; ``on_done`` is told how many of how many are done."""
    return in_processes(play, todo, on_done=on_done)
