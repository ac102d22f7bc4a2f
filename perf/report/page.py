"""The report: a self-contained HTML page, its figures as PNG and their data as CSV beside it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from conch.errors import LoadError
from perf.perf_table import replay_rows
from perf.report import figures
from perf.report.contender import ContenderResult, ReportMeta, VariantRow
from perf.report.style import DARK, LIGHT
from perf.traces import Trace

_ALT = {
    "latency": "Line chart: p99 latency of each second's arrivals against the SLO line.",
    "load": "Line chart: offered load and completions per second.",
    "settings": "Step chart: instance count and max batch size over time, decisions numbered.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """What was written."""

    html: Path
    overview_png: Path
    pngs: tuple[Path, ...]
    csvs: tuple[Path, ...]


def write_report(
    path: Path,
    trace: Trace,
    contenders: Sequence[ContenderResult],
    variants: Sequence[VariantRow],
    meta: ReportMeta,
) -> ReportFiles:
    """Write ``path`` (HTML) and, in the same folder, the figures (PNG) and their data (CSV).

    Args:
        path: the page; its folder is made.
        trace: what every contender was given.
        contenders: at least one; the first is the one to beat.
        variants: rows of the export table; may be empty.
        meta: title, hardware, date, command.

    Raises:
        LoadError: without contenders, or when one was given another trace.
    """
    if not contenders or any(one.replay.count != trace.count for one in contenders):
        raise LoadError(
            f"report: {len(contenders)} contenders, must be at least one, all with this trace.",
            hint="Replay the same trace for each contender.",
        )
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {
        theme.name: figures.Scene(
            trace=trace, contenders=contenders, theme=theme, hardware=meta.hardware
        )
        for theme in (LIGHT, DARK)
    }
    pictures = {
        (kind, theme.name): draw(folder / f"{kind}{suffix}.png", scenes[theme.name])
        for kind, draw in (
            ("latency", figures.latency),
            ("load", figures.load),
            ("settings", figures.settings),
        )
        for theme, suffix in ((LIGHT, ""), (DARK, "-dark"))
    }
    overview = figures.overview(folder / "overview.png", scenes[LIGHT.name])
    csvs = _write_csvs(folder, contenders)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perf.report", "."), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        meta=meta,
        trace=trace,
        contenders=[_row(one, index) for index, one in enumerate(contenders)],
        verdict=_verdict(contenders),
        variants=variants,
        decisions=[
            {"number": number, "who": contenders[index].name, "marker": marker}
            for number, index, marker in figures.numbered_decisions(contenders)
        ],
        figures=[
            {
                "alt": _ALT[kind],
                "light": data_uri(pictures[kind, "light"]),
                "dark": data_uri(pictures[kind, "dark"]),
            }
            for kind in ("latency", "load", "settings")
        ],
        slo_ms=contenders[0].replay.slo_s * 1e3,
    )
    path.write_text(page, encoding="utf-8")
    return ReportFiles(
        html=path, overview_png=overview, pngs=(overview, *pictures.values()), csvs=csvs
    )


def _row(contender: ContenderResult, index: int) -> dict[str, Any]:
    """What the page shows of one contender."""
    summary = contender.replay.summary()
    return {
        "name": contender.name,
        "colour": LIGHT.contenders[index % len(LIGHT.contenders)],
        "colour_dark": DARK.contenders[index % len(DARK.contenders)],
        "summary": summary,
        "details": replay_rows(summary),
        "instance_seconds": contender.instance_seconds,
        "actions": len(contender.decisions),
    }


def _verdict(contenders: Sequence[ContenderResult]) -> str:
    """One sentence: who attained what, at which cost."""
    parts = []
    for one in contenders:
        attained = one.replay.summary()["slo_attainment"]
        share = "none" if attained is None else f"{attained * 100:.1f} %"
        parts.append(f"{one.name} met the SLO for {share} of the requests")
        parts[-1] += f" with {one.instance_seconds:,.0f} instance-seconds"
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _write_csvs(folder: Path, contenders: Sequence[ContenderResult]) -> tuple[Path, ...]:
    """The figures' data."""
    windows = [
        (one.name, start, offered, completed, f"{p99 * 1e3:.3f}", f"{attained:.5f}")
        for one in contenders
        for seen in (one.replay.windows(),)
        for start, offered, completed, p99, attained in zip(
            seen.start_s,
            seen.offered_count,
            seen.completed_count,
            seen.p99_s,
            seen.attainment_fraction,
            strict=True,
        )
    ]
    settings = [
        (
            one.name,
            f"{point.at_s:.3f}",
            point.instances,
            point.max_batch_size,
            point.max_queue_delay_s,
        )
        for one in contenders
        for point in one.timeline
    ]
    decided = [
        (number, contenders[index].name, f"{marker.at_s:.3f}", marker.kind, marker.label)
        for number, index, marker in figures.numbered_decisions(contenders)
    ]
    head = ("contender", "start_s", "offered_rps", "completed_rps", "p99_ms", "slo_attainment")
    of_settings = ("contender", "at_s", "instances", "max_batch_size", "max_queue_delay_s")
    of_decisions = ("number", "contender", "at_s", "kind", "decision")
    return (
        _write_csv(folder / "windows.csv", head, windows),
        _write_csv(folder / "settings.csv", of_settings, settings),
        _write_csv(folder / "decisions.csv", of_decisions, decided),
    )


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def data_uri(path: Path) -> str:
    """The picture for a page that stands alone."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
