"""Latency by batch size, sensitivity of layers, time of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from export.report import Report, Status, VariantReport
from export.report_figures.svg import LINES, SHAPES, drawing, svg
from perf.report.style import LIGHT

BARS = 24
"""Bars of a chart at most; the JSON has them all."""

LEGEND_CHARACTERS = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its name, its length, what stands at its end, and whether it is only outlined."""

    name: str
    value: float
    note: str
    outlined: bool = False


def latency(report: Report) -> str:
    """Latency by batch size, and how many times faster than the baseline; empty without figures."""
    # What was kept has the baseline's files, and so its line.
    timed = [variant for variant in report.variants if variant.latency_ms]
    shown = [variant for variant in timed if variant.status is not Status.KEPT]
    if not shown:
        return ""
    batches = sorted({batch for variant in shown for batch in variant.latency_ms})
    with drawing(3.7) as figure:
        left, right = figure.subplots(1, 2)
        for index, variant in enumerate(shown):
            style = {**_style(index), "label": variant.name}
            left.plot([*variant.latency_ms], [*variant.latency_ms.values()], **style)
            ratios = {b: ratio for b, ratio in variant.latency_ratio.items() if ratio > 0}
            right.plot([*ratios], [1 / ratio for ratio in ratios.values()], **style)
        left.set_title("Latency of one batch")
        left.set_ylabel("ms, median (log)")
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        right.set_title(f"Times as fast as {report.baseline}, paired")
        right.set_ylabel("times")
        _shade_slower(right)
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(batches))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.set_xlabel("batch size")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))
        return svg(figure, alt="Line charts: latency by batch size, and speed-up by batch size.")


def sensitivity(variant: VariantReport) -> str:
    """Noise that quantizing each layer alone adds to the output, the most first; or nothing."""
    rows = [row for row in variant.sensitivity if math.isfinite(float(row["sqnr_db"]))]
    rows.sort(key=lambda row: float(row["sqnr_db"]))
    bars = [
        Bar(
            name=f"{row['node']} ({row.get('op_type', '?')})",
            value=100 * 10 ** (-float(row["sqnr_db"]) / 20),
            note=f"{float(row['sqnr_db']):.1f} dB",
        )
        for row in rows[:BARS]
    ]
    return _bars(bars, "noise in the output, % of the signal", alt="Bar chart: noise by layer.")


def stages(report: Report) -> str:
    """What the longest stages took, in the order of the run; outlined where cached."""
    longest = sorted(report.stages, key=lambda stage: -stage.seconds)[:BARS]
    bars = [
        Bar(
            name=stage.name,
            value=stage.seconds,
            note=f"{stage.seconds:.2g} s" + (", cached" if stage.cached else ""),
            outlined=stage.cached,
        )
        for stage in report.stages
        if stage.seconds > 0 and stage in longest
    ]
    return _bars(bars, "seconds", alt="Bar chart: seconds by stage.")


def _bars(bars: Sequence[Bar], unit: str, *, alt: str) -> str:
    """A chart of horizontal bars from the top; empty without bars."""
    if not bars:
        return ""
    colour = LIGHT.contenders[1]
    with drawing(0.75 + 0.27 * len(bars)) as figure:
        axes = figure.subplots()
        places = range(len(bars))
        drawn = axes.barh(places, [bar.value for bar in bars], height=0.68, color=colour)
        for bar, patch in zip(bars, drawn, strict=True):
            if bar.outlined:
                patch.set(facecolor=LIGHT.background, edgecolor=colour, linewidth=1.2)
        axes.bar_label(drawn, [bar.note for bar in bars], padding=4, fontsize=8.5)
        axes.set_yticks(places, [_short(bar.name) for bar in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.14, y=0.01)
        axes.set_xlabel(unit)
        return svg(figure, alt=alt)


def _style(index: int) -> dict[str, Any]:
    """Colour, line and marker of a variant: no two of the first 25 share all three."""
    colours = len(LIGHT.contenders)
    return {
        "color": LIGHT.contenders[index % colours],
        "linestyle": LINES[index // colours % len(LINES)],
        "marker": SHAPES[index % len(SHAPES)],
        "markersize": 5,
    }


def _shade_slower(axes: Axes) -> None:
    """Mark what is slower than the baseline."""
    low, high = axes.get_ylim()
    low, high = min(low, 0.7), max(high, 1.3)
    axes.axhspan(low, 1.0, color=LIGHT.muted, alpha=0.12, linewidth=0)
    axes.set_ylim(low, high)
    axes.annotate(
        "slower",
        (1.0, low),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=LIGHT.muted,
    )


def _columns(labels: Sequence[str]) -> int:
    """Columns of a legend below the figure, so that no row is wider than it."""
    widest = max(map(len, labels)) + 6
    return max(1, min(len(labels), LEGEND_CHARACTERS // widest))


def _short(name: str, longest: int = 46) -> str:
    """The name, without its middle where it is long."""
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
