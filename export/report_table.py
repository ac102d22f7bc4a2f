"""The report of an export run as a table for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from conch.terminal import clean
from export.report import Report, Status, VariantReport

_COLOURS = {
    Status.PUBLISHED: "green",
    Status.ACCEPTED: "green",
    Status.DOMINATED: "yellow",
    Status.KEPT: "yellow",
    Status.SKIPPED: "yellow",
}


def table(report: Report) -> Table:
    """The report as a rich table, one row a variant."""
    batches = sorted({batch for variant in report.variants for batch in variant.latency_ms})
    shown = Table(title=f"{report.model}: variants against {report.baseline}", title_justify="left")
    shown.add_column("variant")
    shown.add_column("size", justify="right")
    for batch in batches:
        shown.add_column(f"batch {batch}, ms", justify="right")
    shown.add_column(_fidelity_name(report), justify="right")
    shown.add_column(report.task or "task metric", justify="right")
    shown.add_column("MACs", justify="right")
    shown.add_column("verdict", overflow="fold")
    for variant in report.variants:
        shown.add_row(
            variant.name,
            _size(variant),
            *(_latency(variant, batch) for batch in batches),
            f"{variant.fidelity:.4f}" if variant.fidelity is not None else "-",
            _task(variant),
            _macs(variant),
            _verdict(variant),
        )
    return shown


def _verdict(variant: VariantReport) -> Text:
    """The status in its colour, and why."""
    status = (str(variant.status), _COLOURS.get(variant.status, "red"))
    return Text.assemble(status, f": {clean(variant.reason)}")


def _fidelity_name(report: Report) -> str:
    """The metric of the fidelity gates, where all variants have the same."""
    names = {
        verdict.gate.partition(".")[2]
        for variant in report.variants
        for verdict in variant.gates
        if verdict.gate.startswith("fidelity.")
    }
    return names.pop().replace("_", " ") if len(names) == 1 else "fidelity"


def _task(variant: VariantReport) -> str:
    """The task metric, and the interval of its difference to the original's."""
    if variant.task_metric is None:
        return "-"
    if variant.task_interval is None:
        return f"{variant.task_metric:.4f}"
    low, high = variant.task_interval
    if low == high == 0:
        return f"{variant.task_metric:.4f} (no difference)"
    return f"{variant.task_metric:.4f} ({low:+.4f} to {high:+.4f})"


def _macs(variant: VariantReport) -> str:
    """Multiply-accumulate operations, and how many times fewer."""
    if variant.macs is None:
        return "-"
    times = f" ({1 / variant.macs_ratio:.1f}x)" if variant.macs_ratio else ""
    return f"{variant.macs / 1e6:.2f} M{times}"


def _size(variant: VariantReport) -> str:
    """Size and how many times smaller."""
    if not variant.size_bytes:
        return "-"
    times = f" ({1 / variant.size_ratio:.1f}x)" if variant.size_ratio else ""
    return f"{variant.size_bytes / 1e6:.2f} MB{times}"


def _latency(variant: VariantReport, batch: int) -> str:
    """Latency and how many times faster."""
    if batch not in variant.latency_ms:
        return "-"
    return f"{variant.latency_ms[batch]:.2f} ({1 / variant.latency_ratio[batch]:.1f}x)"
