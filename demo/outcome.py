"""What the demo found, as lines, as ``result.json`` and as a report with plots."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control.core.types import Reason
from control.journal import codec, explain
from demo.contender import to_trace_time
from demo.scenario import Scenario, settled_attainment
from perf import slo
from perf.replay_result import Outcome, ReplayResult
from perf.report import page
from perf.report.contender import (
    ContenderResult,
    Marker,
    ReportMeta,
    TimelinePoint,
    VariantRow,
)

if TYPE_CHECKING:
    from demo.run import Measured
    from export.report import Report

BATCH = 8  # the batch size of the latency figures

NEXT = (
    "What to do next:",
    "  look at the report:          {report}",
    "  export every variant:        conch export run examples/minilm/recipe.yaml",
    "  serve it:                    conch serve --model minilm_int8",
    "  ask what control would do:   conch control once --dry-run",
    "  your own model:              docs/how-to/export-your-model.md",
)


def write(out: Path, measured: Measured) -> dict[str, Any]:
    """Write result.json, report.html and the plots; gives the content of result.json."""
    contenders = _contenders(measured)
    result = _result(measured, contenders)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page.write_report(
        out / "report.html",
        measured.trace,
        contenders,
        [
            VariantRow(
                name=v.published_name,
                size_bytes=v.size_bytes,
                latency_ms=v.latency_ms.get(BATCH, math.nan),
                fidelity=v.fidelity or math.nan,
                accepted=v.accepted,
                note=v.reason,
            )
            for v in measured.variants.variants
        ],
        _meta(measured),
    )
    return result


def _contenders(measured: Measured) -> tuple[ContenderResult, ContenderResult]:
    """Both runs with what was set when."""
    static = TimelinePoint(at_s=0.0, instances=1, max_batch_size=1, max_queue_delay_s=0.0)
    return (
        ContenderResult(name="static default", replay=measured.default, timeline=(static,)),
        ContenderResult(
            name="conch control",
            replay=measured.conch,
            timeline=_timeline(measured),
            decisions=_markers(measured.ticks, measured.conch),
        ),
    )


def variant_lines(variants: Report) -> list[str]:
    """The variants as a small table."""
    lines = [f"{'variant':8} {'size':>9} {'batch 8':>10} {'cosine':>7}  verdict"]
    for v in variants.variants:
        latency_ms = v.latency_ms.get(BATCH, math.nan)
        lines.append(
            f"{v.name:8} {v.size_bytes / 1e6:6.1f} MB {latency_ms:7.1f} ms "
            f"{v.fidelity or math.nan:7.4f}  {v.reason}"
        )
    return lines


def action_lines(ticks: list[dict[str, Any]], replayed: ReplayResult) -> list[str]:
    """What the control plane did, on the trace's time axis."""
    return [f"{mark.at_s:6.1f} s  {mark.label}" for mark in _markers(ticks, replayed)]


def table_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Figure, static default, conch: for people."""
    static, conch = result["static_default"], result["conch"]
    return [
        (label, format(static[key], spec), format(conch[key], spec))
        for label, key, spec in (
            ("SLO attainment", "slo_attainment", ".3f"),
            (f"outside {result['recovery_s']:g} s after the step", "settled_attainment", ".3f"),
            ("p99 latency, ms", "p99_ms", ".0f"),
            ("failed requests", "failed", "d"),
            ("instance-seconds", "instance_seconds", ".0f"),
        )
    ] + [("changes made", "0", str(conch["actions"]))]


def _result(
    measured: Measured, contenders: tuple[ContenderResult, ContenderResult]
) -> dict[str, Any]:
    """The content of ``result.json``."""
    static, conch = contenders
    actions = [tick for tick in measured.ticks if tick["ended"] and tick["ended"]["action"]]
    return {
        "schema": 1,
        "slo_ms": measured.scenario.slo_s * 1e3,
        "recovery_s": measured.scenario.recovery_s,
        "capacity_rps": round(measured.capacity.rate_rps, 1),
        "triton": {"version": measured.triton_version, "origin": measured.triton_origin},
        "static_default": _run_figures(static, measured.scenario),
        "conch": {**_run_figures(conch, measured.scenario), "actions": len(actions)},
        "controller_cpu_s": round(measured.controller_cpu_s, 2),
        "variants": [
            {
                "name": v.published_name,
                "size_bytes": v.size_bytes,
                "latency_ms": round(v.latency_ms.get(BATCH, math.nan), 3),
                "latency_batch_size": BATCH,
                "fidelity": v.fidelity,
                "accepted": v.accepted,
            }
            for v in measured.variants.variants
        ],
    }


def _run_figures(contender: ContenderResult, scenario: Scenario) -> dict[str, Any]:
    """One contender's figures."""
    run = contender.replay
    return {
        "slo_attainment": round(slo.slo_attainment(run.latency_s, run.slo_s), 4),
        "settled_attainment": round(settled_attainment(run.intended_s, run.latency_s, scenario), 4),
        "p99_ms": round(slo.percentile_s(run.latency_s, 99) * 1e3, 1),
        "failed": run.number_of(Outcome.FAILED),
        "instance_seconds": round(contender.instance_seconds, 1),
        "requests": run.count,
    }


def _timeline(measured: Measured) -> tuple[TimelinePoint, ...]:
    """The settings in force, from the ticks, clipped to the trace."""
    points: list[TimelinePoint] = []
    for tick in measured.ticks:
        applied = codec.settings(tick["decision"]["applied"])
        at_s = max(0.0, to_trace_time(tick["decision"]["at_s"], measured.conch))
        if applied is None or at_s > measured.trace.duration_s:
            continue
        point = TimelinePoint(
            at_s=at_s,
            instances=applied.instances,
            max_batch_size=applied.largest_batch,
            max_queue_delay_s=applied.max_queue_delay_s,
        )
        if at_s == 0.0:  # before the trace: only the last of these counts
            points = []
        if not points or replace(points[-1], at_s=at_s) != point:
            points.append(point)
    return tuple(points)


def _markers(ticks: list[dict[str, Any]], replayed: ReplayResult) -> tuple[Marker, ...]:
    """One marker for each action."""
    found = []
    for tick in ticks:
        ended = tick["ended"]
        if not ended or not ended["action"]:
            continue
        action, decision = ended["action"], codec.decision(ended["decision"])
        label = (
            f"{decision.reason.name}: {explain.describe(decision.desired)} "
            f"({action['kind']}, {action['outcome']} in {action['seconds']:.2f} s)"
        )
        at_s = to_trace_time(decision.at_s, replayed)
        found.append(Marker(at_s=at_s, label=label, kind=_kind(decision.reason, action)))
    return tuple(found)


def _kind(reason: Reason, action: dict[str, Any]) -> str:
    """The marker's kind for the plot."""
    if action["outcome"] != "applied":
        return "rollback"
    return "batching" if reason is Reason.REBATCH else "instances"


def _meta(measured: Measured) -> ReportMeta:
    """Where and how the figures were taken."""
    scenario = measured.scenario
    server = f"Triton {measured.triton_version} ({measured.triton_origin})"
    return ReportMeta(
        title="Conch demo: a step of load above what the static default carries",
        hardware=f"{os.cpu_count()} cores {platform.machine()} {platform.system()}, no GPU used; "
        f"{server}",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=f"conch demo --seed {scenario.seed}",
        notes=(
            (
                f"Model {scenario.model}, {scenario.sequence} tokens a request; "
                f"SLO: p99 within {scenario.slo_s * 1e3:g} ms."
            ),
            (
                "Static default: 1 instance, no dynamic batching, default threads. It carries "
                f"{measured.capacity.rate_rps:.0f} req/s within the SLO; the step goes to "
                f"{scenario.step_ratio:g} times that."
            ),
            (
                "Both runs begin with that config, freshly loaded, on the same server, and get the "
                "same arrivals. In the second one `conch control run` is started beside it."
            ),
            (
                "An instance of the static default has as many threads as there are cores; under "
                "control each has cores ÷ largest instance count. Instance-seconds do not show it."
            ),
            (
                "Open loop: latency counts from the intended time of each request. "
                "Client, server and control plane share the machine."
            ),
        ),
    )
