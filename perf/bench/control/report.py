"""The comparison as a page: figures and tables of every rule on every trace, with their data."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from perf import slo
from perf.bench.control import figures
from perf.bench.control.figures import Point
from perf.bench.control.run import ControlRun
from perf.bench.control.score import Spread
from perf.bench.control.tables import FIGURES, Meta, Row, Scored, busiest, rows, scored
from perf.report.style import DARK, LIGHT, Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What was written."""

    html: Path
    pngs: tuple[Path, ...]
    csvs: tuple[Path, ...]


def write_report(path: Path, runs: Sequence[ControlRun], meta: Meta) -> Files:
    """Write ``path`` (HTML) and, in the same folder, the figures (PNG) and their data (CSV)."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    every = scored(runs, meta)
    traces = list(dict.fromkeys(one.run.trace_name for one in every))
    looks = {
        theme.name: figures.look(list(dict.fromkeys(one.rule for one in every)), theme)
        for theme in (LIGHT, DARK)
    }
    by_trace = {trace: [o for o in every if o.run.trace_name == trace] for trace in traces}
    pngs: list[Path] = []
    csvs = [_scores_csv(folder / "scores.csv", by_trace)]
    sections = []
    for trace, mine in by_trace.items():
        drawn = _timelines(folder, mine, looks, meta)
        pngs += [picture for light, dark, _ in drawn for picture in (light, dark)]
        csvs += [data for _, _, data in drawn]
        sections.append(
            {
                "name": trace,
                "description": mine[0].run.description,
                "rows": [_shown(row) for row in rows(mine)],
                "figures": [(_data_uri(light), _data_uri(dark)) for light, dark, _ in drawn],
                "jumps": bool(meta.steps_s.get(trace)),
            }
        )
    pareto = _pareto(folder, by_trace, looks, meta)
    pngs += list(pareto)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perf.bench.control", "."), autoescape=True, trim_blocks=True
    )
    path.write_text(
        environment.get_template("report.html.j2").render(
            meta=meta,
            slo_ms=runs[0].slo_s * 1e3 if runs else 0,
            sections=sections,
            pareto=[_data_uri(picture) for picture in pareto],
            seeds=sorted({one.run.seed for one in every}),
            simulated=any(one.run.simulated for one in every),
            all_simulated=all(one.run.simulated for one in every),
            busy=busiest(runs),
            failed=sum(one.score.failed for one in every if not one.run.simulated),
            requests=sum(one.run.intended_s.size for one in every if not one.run.simulated),
            not_valid=[run for run in runs if not run.valid],
            csvs=[data.name for data in csvs],
        ),
        encoding="utf-8",
    )
    return Files(html=path, pngs=tuple(pngs), csvs=tuple(csvs))


def _timelines(
    folder: Path,
    mine: Sequence[Scored],
    looks: Mapping[str, Mapping[str, tuple[str, str]]],
    meta: Meta,
) -> list[tuple[Path, Path, Path]]:
    """Figures (light, dark) and data of one trace's first seed; the references are not drawn."""
    shown = [one for one in mine if one.run.seed == mine[0].run.seed]
    if any(not one.run.simulated for one in shown):
        shown = [one for one in shown if not one.run.simulated]
    by_rule = {one.rule: one for one in shown}
    trace = mine[0].run.trace_name
    drawn = []
    for number, group in enumerate(figures.groups(list(by_rule))):
        name = f"timeline-{trace}" + (f"-{number + 1}" if number else "")
        runs = [by_rule[rule].run for rule in group]
        pictures = [
            figures.timeline(
                folder / f"{name}{suffix}.png",
                runs,
                group,
                theme,
                looks=looks[theme.name],
                caption=_caption(shown, meta),
            )
            for theme, suffix in ((LIGHT, ""), (DARK, "-dark"))
        ]
        data = _timeline_csv(folder / f"{name}.csv", dict(zip(group, runs, strict=True)))
        drawn.append((pictures[0], pictures[1], data))
    return drawn


def _caption(shown: Sequence[Scored], meta: Meta) -> str:
    """What a reader must know of the measurement."""
    run = shown[0].run
    how = "Simulated server" if run.simulated else "Real Triton"
    return (
        f"{how}, open loop, n = {run.intended_s.size:,} requests per rule, seed {run.seed}, "
        f"SLO {run.slo_s * 1e3:g} ms. {run.description}. Served: {meta.served}. {meta.hardware}."
    )


def _pareto(
    folder: Path,
    by_trace: Mapping[str, Sequence[Scored]],
    looks: Mapping[str, Mapping[str, tuple[str, str]]],
    meta: Meta,
) -> tuple[Path, ...]:
    """Attainment against cost, light and dark; none where nothing says what cost is relative to."""
    panels = []
    for trace, mine in by_trace.items():
        points = [
            Point(rule=row.rule, cost=_triple(cost), attained=_triple(row.figures["attainment"]))
            for row in rows(mine)
            if not math.isnan((cost := row.figures["x_static_best"]).median)
        ]
        if points:
            seeds = len({one.run.seed for one in mine})
            how = "simulated, " if all(one.run.simulated for one in mine) else ""
            panels.append((f"{trace} ({how}{seeds} seed{'s' if seeds > 1 else ''})", points))
    if not panels:
        return ()
    real = any(not one.run.simulated for mine in by_trace.values() for one in mine)
    caption = (
        f"{'Real Triton' if real else 'Simulated server'}: medians, with the range over the seeds. "
        f"SLO {next(iter(by_trace.values()))[0].run.slo_s * 1e3:g} ms; the dashed line is 99 %. "
        f"Up and to the left is better. Served: {meta.served}. {meta.hardware}."
    )

    def draw(theme: Theme, name: str) -> Path:
        return figures.pareto(
            folder / name,
            panels,
            theme,
            looks=looks[theme.name],
            reference="static best in hindsight",
            caption=caption,
        )

    return draw(LIGHT, "pareto.png"), draw(DARK, "pareto-dark.png")


def _triple(value: Spread) -> tuple[float, float, float]:
    return value.median, value.low, value.high


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "attainment": lambda v: f"{v * 100:.2f} %",
    "good_windows": lambda v: f"{v * 100:.0f} %",
    "cost_instance_s": lambda v: f"{v:,.0f}",
    "x_static_best": lambda v: f"{v:.2f}",
    "x_clairvoyant": lambda v: f"{v:.2f}",
    "p50_s": lambda v: f"{v * 1e3:.0f} ms",
    "p99_s": lambda v: f"{v * 1e3:.0f} ms",
    "changes_per_hour": lambda v: f"{v:.0f}",
    "flaps": lambda v: f"{v:g}",
    "reloads": lambda v: f"{v:g}",
    "recovery_s": lambda v: "never" if math.isinf(v) else f"{v:.0f} s",
    "prediction_error": lambda v: f"{v * 100:.0f} %",
    "controller_cpu": lambda v: f"{v * 100:.1f} %",
    "failed": lambda v: f"{v:g}",
}


def _shown(row: Row) -> dict[str, Any]:
    """A row of the table: for each figure its median, and its range where it has one."""
    cells = {}
    for name, text in _FORMATS.items():
        value = row.figures[name]
        if math.isnan(value.median):
            cells[name] = ("–", "")
            continue
        low, high = text(value.low), text(value.high)
        cells[name] = (text(value.median), f"{low} to {high}" if low != high else "")
    missed = row.figures["attainment"].median < 0.99
    return {"rule": row.rule, "simulated": row.simulated, "cells": cells, "missed": missed}


def texts(
    runs: Sequence[ControlRun], meta: Meta
) -> Iterator[tuple[str, str, Mapping[str, tuple[str, str]]]]:
    """Trace, rule and the table's cells as (median, range), for a terminal."""
    every = scored(runs, meta)
    for trace in dict.fromkeys(one.run.trace_name for one in every):
        for row in rows([one for one in every if one.run.trace_name == trace]):
            yield trace, row.rule, _shown(row)["cells"]


def _scores_csv(path: Path, by_trace: Mapping[str, Sequence[Scored]]) -> Path:
    """The tables and the attainment-cost picture."""
    names = (*FIGURES, "x_static_best", "x_clairvoyant")
    head = ["trace", "rule", "simulated", "seeds"]
    head += [f"{name}_{part}" for name in names for part in ("median", "low", "high")]
    lines = [
        [
            trace,
            row.rule,
            row.simulated,
            " ".join(map(str, row.seeds)),
            *(part for name in names for part in _triple(row.figures[name])),
        ]
        for trace, mine in by_trace.items()
        for row in rows(mine)
    ]
    return _csv(path, head, lines)


def _timeline_csv(path: Path, runs: Mapping[str, ControlRun]) -> Path:
    """What a timeline shows: one line a rule and window; instances are the window's mean."""
    lines: list[list[object]] = []
    for rule, run in runs.items():
        length_s = figures.window_s(run.duration_s)
        seen = slo.windows(
            run.intended_s,
            run.latency_s,
            slo_s=run.slo_s,
            until_s=run.duration_s,
            window_s=length_s,
        )
        for start_s, offered, p99_s, attained in zip(
            seen.start_s, seen.offered_count, seen.p99_s, seen.attainment_fraction, strict=True
        ):
            until_s = min(start_s + length_s, run.duration_s)
            paid = slo.instance_seconds(run.paid, until_s) - slo.instance_seconds(run.paid, start_s)
            lines.append(
                [
                    rule,
                    run.seed,
                    run.simulated,
                    f"{start_s:g}",
                    f"{offered / (until_s - start_s):.2f}",
                    f"{paid / (until_s - start_s):.3f}",
                    f"{p99_s * 1e3:.2f}",
                    f"{attained:.5f}",
                ]
            )
    head = ("rule", "seed", "simulated", "start_s", "offered_rps", "instances", "p99_ms")
    return _csv(path, (*head, "slo_attainment"), lines)


def _csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)
    return path


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
