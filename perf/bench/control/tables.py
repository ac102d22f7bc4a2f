"""The figures of a comparison: each rule on each trace over its seeds, and each run. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perf.bench.control.run import ControlRun
from perf.bench.control.score import Score, Spread, score, spread

STATIC_BEST, CLAIRVOYANT = "static-best", "clairvoyant"
SIMULATED = " (simulated)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What the page says about itself.

    Attributes:
        title: the heading.
        served: what was served; says so when it is an emulator.
        hardware: processor, cores, memory and server version, in one line.
        date: when it was measured.
        command: what to type to repeat it.
        side_by_side: how many runs at a time, at most.
        steps_s: when the load jumps, by trace.
        allowed_s: what a recovery may take.
        notes: sentences for the section on how it was measured.
    """

    title: str
    served: str
    hardware: str
    date: str
    command: str
    side_by_side: int = 1
    steps_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    allowed_s: float = 8.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A run with its figures."""

    run: ControlRun
    score: Score

    @property
    def rule(self) -> str:
        """As the page calls it: a run of the simulator is always named so."""
        return self.run.rule + (SIMULATED if self.run.simulated else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rule on one trace, over its seeds.

    Attributes:
        rule: as the page calls it.
        simulated: whether the server was the simulator.
        seeds: that were played.
        figures: by name; see ``FIGURES``.
    """

    rule: str
    simulated: bool
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]


FIGURES: Mapping[str, Callable[[Scored], float]] = {
    "attainment": lambda one: one.score.attainment,
    "good_windows": lambda one: one.score.good_windows,
    "cost_instance_s": lambda one: one.score.cost_instance_s,
    "mean_instances": lambda one: one.score.mean_instances,
    "p50_s": lambda one: one.score.p50_s,
    "p99_s": lambda one: one.score.p99_s,
    "actions": lambda one: float(one.score.actions),
    "changes_per_hour": lambda one: one.score.actions * 3600.0 / one.run.duration_s,
    "flaps": lambda one: float(one.score.flaps),
    "reloads": lambda one: float(one.score.reloads),
    "recovery_s": lambda one: longest_recovery_s(one.score),
    "prediction_error": lambda one: one.score.prediction_error,
    "controller_cpu": lambda one: one.score.controller_cpu_fraction,
    "failed": lambda one: float(one.score.failed),
}
"""What is told of a run, beside its cost relative to others."""


def longest_recovery_s(scored: Score) -> float:
    """Seconds of the slowest return into the SLO after a jump; nan without jumps."""
    return max((one.seconds for one in scored.recoveries), default=math.nan)


def scored(runs: Sequence[ControlRun], meta: Meta) -> list[Scored]:
    """The runs with their figures; not valid ones are left out."""
    return [
        Scored(
            run=run,
            score=score(
                run, steps_s=meta.steps_s.get(run.trace_name, ()), allowed_s=meta.allowed_s
            ),
        )
        for run in runs
        if run.valid
    ]


def rows(of_trace: Sequence[Scored]) -> list[Row]:
    """The rules of one trace, in the order of their first run, each over its seeds."""
    cost = {(one.run.rule, one.run.seed): one.score.cost_instance_s for one in of_trace}
    found = []
    for rule in dict.fromkeys(one.rule for one in of_trace):
        mine = [one for one in of_trace if one.rule == rule]
        told = {name: spread([read(one) for one in mine]) for name, read in FIGURES.items()}
        for name, reference in (("x_static_best", STATIC_BEST), ("x_clairvoyant", CLAIRVOYANT)):
            told[name] = spread([_times(one, cost.get((reference, one.run.seed))) for one in mine])
        found.append(
            Row(
                rule=rule,
                simulated=mine[0].run.simulated,
                seeds=tuple(one.run.seed for one in mine),
                figures=told,
            )
        )
    return found


def _times(one: Scored, reference: float | None) -> float:
    """The cost as a multiple of the reference's on the same arrivals; nan without one."""
    return one.score.cost_instance_s / reference if reference else math.nan


def as_json(runs: Sequence[ControlRun], meta: Meta) -> dict[str, Any]:
    """Every figure: of each rule on each trace, and of each run."""
    every = scored(runs, meta)
    return {
        "served": meta.served,
        "hardware": meta.hardware,
        "date": meta.date,
        "side_by_side": meta.side_by_side,
        "busy_fraction_max": _number(busiest(runs)),
        "traces": {
            trace: [
                {
                    "rule": row.rule,
                    "simulated": row.simulated,
                    "seeds": list(row.seeds),
                    **{name: _plain(value) for name, value in row.figures.items()},
                }
                for row in rows([one for one in every if one.run.trace_name == trace])
            ]
            for trace in dict.fromkeys(one.run.trace_name for one in every)
        },
        "runs": [_run_figures(one) for one in every],
        "not_valid": [
            {"rule": r.rule, "trace": r.trace_name, "seed": r.seed, "reason": r.invalid_reason}
            for r in runs
            if not r.valid
        ],
    }


def _run_figures(one: Scored) -> dict[str, Any]:
    """The figures of one run as JSON types."""
    return {
        "rule": one.rule,
        "trace": one.run.trace_name,
        "seed": one.run.seed,
        "simulated": one.run.simulated,
        "requests": int(one.run.intended_s.size),
        "busy_fraction": _number(one.run.busy_fraction),
        **{name: _number(read(one)) for name, read in FIGURES.items()},
    }


def busiest(runs: Sequence[ControlRun]) -> float:
    """The highest mean use of the machine during any real run; nan without one."""
    return max((r.busy_fraction for r in runs if not math.isnan(r.busy_fraction)), default=math.nan)


def _plain(value: Spread) -> dict[str, float | None]:
    return {
        "median": _number(value.median),
        "low": _number(value.low),
        "high": _number(value.high),
    }


def _number(value: float) -> float | None:
    """A number that JSON has; None for the others."""
    return round(value, 6) if math.isfinite(value) else None
