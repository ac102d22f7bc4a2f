"""Results as plain text tables for a terminal; rich draws them, without colour off a TTY."""

from __future__ import annotations

import io
from typing import Any

from rich.table import Table

from conch.tables import clean_table, literal_console
from perf.perf_analyzer import PerfResult

WIDTH = 110


def of_perf(result: PerfResult) -> str:
    """One line per load level."""
    unit = "req/s offered" if result.kind == "rate" else "in flight"
    shapes = ", ".join(f"{name}{list(dims)}" for name, dims in result.shapes.items())
    table = Table(
        title=f"{result.model}: batch {result.batch}, {shapes}; {result.duration_s:g} s a load",
        title_justify="left",
    )
    headers = (unit, "req/s done", "avg ms", "p50", "p90", "p95", "p99", "queue ms", "infer ms")
    for header in (*headers, "sent late"):
        table.add_column(header, justify="right")
    for level in result.levels:
        times = (level.avg_ms, level.p50_ms, level.p90_ms, level.p95_ms, level.p99_ms)
        table.add_row(
            f"{level.load:g}",
            f"{level.throughput_rps:.1f}",
            *(f"{value:.2f}" for value in (*times, level.queue_ms, level.infer_ms)),
            str(level.delayed_count),
        )
    return drawn(table)


def of_replay(summary: dict[str, Any]) -> str:
    """The figures of one replay, one a line."""
    table = Table(title=f"{summary['model']}: {summary['description']}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in replay_rows(summary):
        table.add_row(name, value)
    return drawn(table)


def replay_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of what a reader wants to know of a replay."""
    attained = summary["slo_attainment"]
    rows = [
        (f"SLO attainment ({summary['slo_ms']:g} ms)", _text(attained and attained * 100, "%")),
        ("requests", str(summary["requests"])),
        ("  failed", str(summary["failed"])),
        (f"  late (no answer in {summary['deadline_s']:g} s)", str(summary["late"])),
        ("offered load", _text(summary["offered_rps"], "req/s")),
        ("throughput", _text(summary["throughput_rps"], "req/s")),
        ("goodput", _text(summary["goodput_rps"], "req/s")),
    ]
    rows += [
        (f"latency {label}", _text(summary[key], "ms"))
        for label, key in (
            ("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"), ("max", "max_ms"),
        )
    ]  # fmt: skip
    rows += [
        ("seconds with 99 % attained", _text(summary["good_seconds_fraction"], "", 3)),
        ("replayer's own lag, p99", _text(summary["lag_p99_ms"], "ms")),
        ("replayer's CPU", _text(summary["client_cpu_us_per_request"], "µs/request", 0)),
        ("valid", "yes" if summary["valid"] else f"NO: {summary['invalid_reason']}"),
    ]
    return rows + [(f"  {count} x", text[:70]) for text, count in summary["errors"].items()]


def drawn(table: Table) -> str:
    """The table as text, without a trailing newline."""
    page = io.StringIO()
    literal_console(file=page, width=WIDTH, color_system=None).print(clean_table(table))
    return page.getvalue().rstrip()


def _text(value: float | None, unit: str, digits: int = 2) -> str:
    return "none in time" if value is None else f"{value:.{digits}f} {unit}".rstrip()
