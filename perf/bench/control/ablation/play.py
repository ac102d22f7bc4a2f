"""Simulated runs without each mechanism, on every kind of load, under two objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from control.core.rules import rule_named
from perf.bench.control import scenarios
from perf.bench.control.ablation.mechanisms import without
from perf.bench.control.score import score
from perf.bench.control.shell import simulate
from perf.bench.control.side_by_side import in_processes

MAX_INSTANCES = 8
IDLE_COST = 10_000.0
"""Late requests an hour: the third of three instances is held for some six minutes."""
NEIGHBOUR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        mechanism: that is left out; empty for none.
        load: one of ``scenarios.KINDS``.
        seed: of the arrivals.
        idle_cost: 0 where instances are free.
        neighbour: whether somebody else works on the machine now and then.
        duration_s: that is scored.
    """

    mechanism: str
    load: str
    seed: int
    idle_cost: float
    neighbour: bool
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    case: Case
    late_fraction: float
    mean_instances: float
    changes_per_hour: float
    flaps: int


def cases(
    mechanisms: Sequence[str], loads: Sequence[str], seeds: Sequence[int], *, duration_s: float
) -> list[Case]:
    """All runs: with all mechanisms, and without each; instances free and dear; alone and not."""
    return [
        Case(
            mechanism=mechanism,
            load=load,
            seed=seed,
            idle_cost=idle_cost,
            neighbour=neighbour,
            duration_s=duration_s,
        )
        for idle_cost in (0.0, IDLE_COST)
        for neighbour in (False, True)
        for mechanism in ("", *mechanisms)
        for load in loads
        for seed in seeds
    ]


def play(case: Case) -> Outcome:
    """One run, in this process."""
    policy = replace(
        scenarios.POLICY,
        max_instances=MAX_INSTANCES,
        cores=MAX_INSTANCES,
        idle_cost=case.idle_cost,
    )
    scene = scenarios.scenario(case.load, duration_s=case.duration_s, seed=case.seed, policy=policy)
    if case.neighbour:
        scene = replace(scene, neighbour_fraction=NEIGHBOUR)
    with without(case.mechanism):
        run = simulate(rule_named("conch"), policy, scene, model=scenarios.EMULATED)
    made = score(run)
    return Outcome(
        case=case,
        late_fraction=1.0 - made.attainment,
        mean_instances=made.mean_instances,
        changes_per_hour=made.actions * 3600.0 / case.duration_s,
        flaps=made.flaps,
    )


def play_all(
    todo: Sequence[Case], *, on_done: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Every run, side by side; ``on_done`` is told how many of how many are done."""
    return in_processes(play, todo, on_done=on_done)
