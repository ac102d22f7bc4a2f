"""What the acts came to: verdicts in words, ``result.json``, and the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from control.act.knobs import settings_of
from control.journal import codec, explain
from demo import acts, figures
from demo.acts import Act
from demo.contender import to_trace_time
from demo.neighbours import Attempt
from demo.scenario import Carried, Scenario
from demo.stage import Played
from perf import slo
from perf.replay_result import Outcome
from perf.report.contender import Marker, TimelinePoint

Row = tuple[str, ...]


def tuned(scenario: Scenario, act: Act) -> dict[str, Any]:
    """Act 1's figures; met where Conch, once warm, is not below the best settings."""
    ours, theirs = act.runs(acts.CONCH), act.runs(acts.BY_HAND)
    compared = figures.difference(
        [one.replay for one in ours],
        [one.replay for one in theirs],
        after_s=scenario.cold_s,
        seed=scenario.seed,
    )
    changes = [mark for one in ours for mark in markers(one)]
    return {
        "contenders": {
            name: _figures(act.runs(name), after_s=scenario.cold_s)
            for name in (acts.DEFAULT, acts.BY_HAND, acts.CONCH)
        },
        "conch_less_by_hand": {k: round(v, 4) for k, v in asdict(compared).items()},
        "changes": [f"{mark.at_s:.1f} s {mark.label}" for mark in changes],
        "met": compared.low > -scenario.not_worse,
    }


def tuned_rows(result: dict[str, Any]) -> list[Row]:
    """For a table."""
    return _table(
        result,
        ("in the SLO", "within", ".3f"),
        ("after 10 s", "within_warm", ".3f"),
        ("p50, ms", "p50_ms", ".0f"),
        ("p99, ms", "p99_ms", ".0f"),
        ("failed", "failed", "d"),
    )


def rush(scenario: Scenario, carried: Carried, act: Act, *, best: int) -> dict[str, Any]:
    """Act 2's figures; met where the SLO held outside of the recovery, at full quality while the
    best version could carry the load."""
    begin_s, _ = scenario.rush
    recovery = (begin_s, begin_s + scenario.recovery_s)
    contenders = {}
    for name, only in ((acts.BEST, best), (acts.CHEAP, 0), (acts.CONCH, None)):
        (one,) = act.runs(name)
        served = versions(one) if only is None else ((0.0, only),)
        shares = figures.quality(one.replay, served, best, rush=scenario.rush)
        contenders[name] = {
            **_figures([one], after_s=0.0),
            "within_outside": round(figures.within(one.replay, but=recovery), 4),
            "quality_time": round(shares.time, 3),
            "quality_requests": round(shares.requests, 3),
            "quality_carried": round(shares.carried, 3),
        }
    (ours,) = act.runs(acts.CONCH)
    conch = contenders[acts.CONCH]
    return {
        "contenders": contenders,
        "changes": [f"{mark.at_s:.1f} s {mark.label}" for mark in markers(ours)],
        "int8_carries_times": round(carried.faster, 2),
        "worth_it": carried.faster >= scenario.worth_it,
        "met": conch["within_outside"] >= scenario.attainment_goal
        and conch["quality_carried"] >= scenario.quality_goal,
    }


def rush_rows(scenario: Scenario, result: dict[str, Any]) -> list[Row]:
    """For a table."""
    return _table(
        result,
        ("in the SLO", "within", ".3f"),
        (f"outside {scenario.recovery_s:g} s of the rush", "within_outside", ".3f"),
        ("time at full quality", "quality_time", ".2f"),
        ("requests at full quality", "quality_requests", ".2f"),
        ("outside of the rush at full quality", "quality_carried", ".2f"),
        ("p99, ms", "p99_ms", ".0f"),
        ("failed", "failed", "d"),
    )


def _table(result: dict[str, Any], *rows: tuple[str, str, str]) -> list[Row]:
    """The contenders' figures: (label, key, format) of each row, the head before them."""
    of = result["contenders"]
    figured = [
        (label, *(format(one[key], spec) for one in of.values())) for label, key, spec in rows
    ]
    return [("", *of), *figured]


def faults(act: Act) -> dict[str, Any]:
    """Act 3's figures; met where everything answers again."""
    ((one,),) = act.rounds
    found = figures.lost(one.replay, act.faults)
    return {
        "faults": [asdict(fault) for fault in found],
        "met": all(fault.answers for fault in found),
    }


def fault_rows(result: dict[str, Any]) -> list[Row]:
    """For a table."""
    head = ("", "requests", "failed", "late", "all answered after")
    return [
        head,
        *(
            (
                f"{fault['what']}, {fault['at_s']:.0f} s",
                str(fault["came"]),
                str(fault["failed"]),
                str(fault["late"]),
                f"{fault['until_s']:.1f} s" if fault["answers"] else "never",
            )
            for fault in result["faults"]
        ),
    ]


def attempt_lines(label: str, attempts: Sequence[Attempt[Any]], counted: Attempt[Any]) -> list[str]:
    """Every attempt, what others used meanwhile, and which one counts."""
    found = []
    for number, one in enumerate(attempts, start=1):
        word = "disturbed" if one.disturbed else "undisturbed"
        which = "" if len(attempts) == 1 else ", counts" if one is counted else ", does not count"
        found.append(
            f"{label}, attempt {number}: {word}, others used {one.others * 100:.0f} % of the CPU"
            f"{which}"
        )
    return found


def _figures(runs: Sequence[Played], *, after_s: float) -> dict[str, Any]:
    """One contender's figures over its runs."""
    every = np.concatenate([run.replay.latency_s for run in runs])
    lag_s = max(slo.percentile_s(run.replay.lag_s, 99) for run in runs)
    return {
        "within": round(_mean(figures.within(run.replay) for run in runs), 4),
        "within_warm": round(_mean(figures.within(run.replay, after_s=after_s) for run in runs), 4),
        "p50_ms": round(slo.percentile_s(every, 50) * 1e3, 1),
        "p99_ms": round(slo.percentile_s(every, 99) * 1e3, 1),
        "failed": sum(run.replay.number_of(Outcome.FAILED) for run in runs),
        "requests": sum(run.replay.count for run in runs),
        "sender_lag_p99_ms": round(lag_s * 1e3, 1),
        "controller_cpu_s": round(sum(run.controller_cpu_s for run in runs), 2),
    }


def _mean(values: Any) -> float:
    """Of some figures."""
    found = list(values)
    return math.fsum(found) / len(found)


def versions(played: Played) -> tuple[tuple[float, int], ...]:
    """(since when on the trace's clock, version) as the controller saw it; the first from 0 on."""
    found: list[tuple[float, int]] = []
    for tick in played.ticks:
        applied = codec.settings(tick["decision"]["applied"])
        if applied is None or applied.version is None:
            continue
        at_s = to_trace_time(tick["decision"]["at_s"], played.replay)
        if not found or found[-1][1] != applied.version:
            found.append((at_s, applied.version))
    return tuple(found) or ((0.0, 0),)


def markers(played: Played) -> tuple[Marker, ...]:
    """One for each change that the controller made."""
    found = []
    for tick in played.ticks:
        ended = tick["ended"]
        if not ended or not ended["action"]:
            continue
        action, decision = ended["action"], codec.decision(ended["decision"])
        label = (
            f"{decision.reason.name}: {explain.describe(decision.desired)} "
            f"({action['kind']}, {action['outcome']} in {action['seconds']:.2f} s)"
        )
        kind = "instances"
        if action["outcome"] != "applied":
            kind = "rollback"
        elif decision.reason.name == "REBATCH":
            kind = "batching"
        elif decision.reason.name.startswith("QUALITY"):
            kind = "version"
        at_s = to_trace_time(decision.at_s, played.replay)
        found.append(Marker(at_s=at_s, label=label, kind=kind))
    return tuple(found)


def timeline(played: Played) -> tuple[TimelinePoint, ...]:
    """The settings in force, clipped to the trace."""
    first = settings_of(played.config)
    points = [(0.0, first)]
    for tick in played.ticks:
        applied = codec.settings(tick["decision"]["applied"])
        at_s = max(0.0, to_trace_time(tick["decision"]["at_s"], played.replay))
        if applied is None or at_s > played.replay.duration_s:
            continue
        if at_s == 0.0:
            points = []
        points.append((at_s, applied))
    found: list[TimelinePoint] = []
    for at_s, settings in points:
        point = TimelinePoint(
            at_s=at_s,
            instances=settings.instances,
            max_batch_size=settings.largest_batch,
            max_queue_delay_s=settings.max_queue_delay_s,
        )
        if not found or (point.instances, point.max_batch_size, point.max_queue_delay_s) != (
            found[-1].instances,
            found[-1].max_batch_size,
            found[-1].max_queue_delay_s,
        ):
            found.append(point)
    return tuple(found)
