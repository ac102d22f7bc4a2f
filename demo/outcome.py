"""What the demo found, as lines, as ``result.json`` and as a report with plots."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control import codec, explain
from control.core.types import Reason
from demo.contender import to_trace_time
from perf import slo
from perf.replay_result import Outcome, ReplayResult

if TYPE_CHECKING:
    from demo.run import Measured
    from export.report import Report

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
    from perf import report

    timeline = _timeline(measured)
    result = _result(measured, timeline)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    static = report.TimelinePoint(at_s=0.0, instances=1, max_batch_size=1, max_queue_delay_s=0.0)
    points = tuple(
        report.TimelinePoint(
            at_s=at_s,
            instances=applied["instances"],
            max_batch_size=applied["max_batch_size"] if applied["dynamic_batching"] else 1,
            max_queue_delay_s=applied["max_queue_delay_s"],
        )
        for at_s, applied in timeline
    )
    report.write_report(
        out / "report.html",
        trace=measured.trace,
        contenders=(
            report.ContenderResult(
                name="static default",
                replay=measured.default,
                timeline=(static,),
                decisions=(),
                instance_seconds=result["static_default"]["instance_seconds"],
            ),
            report.ContenderResult(
                name="conch control",
                replay=measured.conch,
                timeline=points,
                decisions=tuple(
                    report.Marker(at_s=at_s, label=label, kind=kind)
                    for at_s, label, kind in _markers(measured.ticks, measured.conch)
                ),
                instance_seconds=result["conch"]["instance_seconds"],
            ),
        ),
        variants_table=result["variants"],
        meta=_meta(measured),
    )
    return result


def variant_lines(variants: Report) -> list[str]:
    """The variants as a small table."""
    lines = [f"{'variant':8} {'size':>9} {'batch 8':>10} {'cosine':>7}  verdict"]
    for v in variants.variants:
        latency_ms = v.latency_ms.get(8, float("nan"))
        lines.append(
            f"{v.name:8} {v.size_bytes / 1e6:6.1f} MB {latency_ms:7.1f} ms "
            f"{v.fidelity or float('nan'):7.4f}  {v.reason}"
        )
    return lines


def action_lines(ticks: list[dict[str, Any]], replayed: ReplayResult) -> list[str]:
    """What the control plane did, on the trace's time axis."""
    return [f"{at_s:6.1f} s  {label}" for at_s, label, _ in _markers(ticks, replayed)]


def table_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Figure, static default, conch: for people."""
    both = (result["static_default"], result["conch"])
    return [
        ("SLO attainment", *(f"{run['slo_attainment']:.3f}" for run in both)),
        ("p99 latency, ms", *(f"{run['p99_ms']:.0f}" for run in both)),
        ("failed requests", *(str(run["failed"]) for run in both)),
        ("instance-seconds", *(f"{run['instance_seconds']:.0f}" for run in both)),
        ("changes made", "0", str(result["conch"]["actions"])),
    ]


def _result(measured: Measured, timeline: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """The content of ``result.json``."""
    until_s = measured.trace.duration_s
    counts = tuple((at_s, applied["instances"]) for at_s, applied in timeline)
    actions = [tick for tick in measured.ticks if tick["action"]]
    return {
        "schema": 1,
        "slo_ms": measured.scenario.slo_s * 1e3,
        "capacity_rps": round(measured.capacity.rate_rps, 1),
        "triton": {"version": measured.triton_version, "origin": measured.triton_origin},
        "static_default": _run_figures(measured.default, ((0.0, 1),), until_s),
        "conch": {**_run_figures(measured.conch, counts, until_s), "actions": len(actions)},
        "variants": [
            {
                "name": v.published_name,
                "size_bytes": v.size_bytes,
                "latency_ms": round(v.latency_ms.get(8, float("nan")), 3),
                "latency_batch_size": 8,
                "fidelity": v.fidelity,
                "accepted": v.accepted,
            }
            for v in measured.variants.variants
        ],
    }


def _run_figures(
    run: ReplayResult, counts: tuple[tuple[float, int], ...], until_s: float
) -> dict[str, Any]:
    """One contender's figures."""
    return {
        "slo_attainment": round(slo.slo_attainment(run.latency_s, run.slo_s), 4),
        "p99_ms": round(slo.percentile_s(run.latency_s, 99) * 1e3, 1),
        "failed": run.number_of(Outcome.FAILED),
        "instance_seconds": round(slo.instance_seconds(counts, until_s), 1),
        "requests": run.count,
    }


def _timeline(measured: Measured) -> list[tuple[float, dict[str, Any]]]:
    """(seconds on the trace's axis, settings in force) from the ticks, clipped to the trace."""
    points: list[tuple[float, dict[str, Any]]] = []
    for tick in measured.ticks:
        applied = tick["decision"]["applied"]
        at_s = max(0.0, to_trace_time(tick["decision"]["at_s"], measured.conch))
        if applied is None or at_s > measured.trace.duration_s:
            continue
        if points and at_s == 0.0:
            points = []
        if not points or points[-1][1] != applied:
            points.append((at_s, applied))
    return points


def _markers(ticks: list[dict[str, Any]], replayed: ReplayResult) -> list[tuple[float, str, str]]:
    """(seconds, what was done, kind) for each action."""
    found = []
    for tick in ticks:
        action = tick["action"]
        if not action:
            continue
        decision = codec.decision(tick["decision"])
        label = (
            f"{decision.reason.name}: {explain.describe(decision.desired)} "
            f"({action['kind']}, {action['outcome']} in {action['seconds']:.2f} s)"
        )
        at_s = to_trace_time(decision.at_s, replayed)
        found.append((at_s, label, _kind(decision.reason)))
    return found


def _kind(reason: Reason) -> str:
    """The marker's kind for the plot."""
    if reason is Reason.REBATCH:
        return "reload"
    return "down" if reason is Reason.SCALE_DOWN else "up"


def _meta(measured: Measured) -> dict[str, str]:
    """Where and how the figures were taken."""
    return {
        "model": f"{measured.scenario.model}, {measured.scenario.sequence} tokens a request",
        "server": f"Triton {measured.triton_version} ({measured.triton_origin})",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "static default": "1 instance, no dynamic batching, default threads; "
        f"carries {measured.capacity.rate_rps:.0f} req/s within the SLO",
        "seed": str(measured.scenario.seed),
    }
