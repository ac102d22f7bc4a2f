"""Whole figures as PNG files: single panels for the page, all of them stacked for an overview."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perf.report import panels
from perf.report.contender import ContenderResult, Marker
from perf.report.style import Theme
from perf.traces import Trace

WIDTH_IN = 10.0
DPI = 150
LISTED_DECISIONS = 12
TEXT_COLUMNS = 150
_LINE_IN = 0.19

Panel = Callable[[Axes, Sequence[ContenderResult], Theme], None]


def numbered_decisions(contenders: Sequence[ContenderResult]) -> list[tuple[int, int, Marker]]:
    """(number from 1, index of its contender, marker) of every decision, in order of time."""
    every = sorted(
        (
            (marker.at_s, index, marker)
            for index, one in enumerate(contenders)
            for marker in one.decisions
        ),
        key=lambda item: item[:2],
    )
    return [(number, index, marker) for number, (_, index, marker) in enumerate(every, start=1)]


def load(path: Path, trace: Trace, contenders: Sequence[ContenderResult], theme: Theme) -> Path:
    """Offered load and completions."""
    return _figure(path, trace, contenders, theme, [(panels.offered_and_completed, 2.7)])


def latency(path: Path, trace: Trace, contenders: Sequence[ContenderResult], theme: Theme) -> Path:
    """p99 against the SLO."""
    return _figure(path, trace, contenders, theme, [(panels.p99_against_slo, 3.0)])


def settings(path: Path, trace: Trace, contenders: Sequence[ContenderResult], theme: Theme) -> Path:
    """Decisions, instances and batch settings."""
    stack: list[tuple[Panel, float]] = [(panels.instances, 1.6), (panels.batching, 1.5)]
    return _figure(path, trace, contenders, theme, stack)


def overview(
    path: Path, trace: Trace, contenders: Sequence[ContenderResult], theme: Theme, hardware: str
) -> Path:
    """Everything, stacked, with the list of decisions and a caption: stands alone in a README."""
    stack: list[tuple[Panel, float]] = [
        (panels.offered_and_completed, 2.0),
        (panels.p99_against_slo, 2.3),
        (panels.instances, 1.15),
        (panels.batching, 1.15),
    ]
    lines = [
        *_decision_lines(contenders),
        "",
        *textwrap.wrap(_caption(trace, contenders), TEXT_COLUMNS),
    ]
    lines += textwrap.wrap(hardware, TEXT_COLUMNS)
    return _figure(path, trace, contenders, theme, stack, lines)


def _figure(
    path: Path,
    trace: Trace,
    contenders: Sequence[ContenderResult],
    theme: Theme,
    stack: list[tuple[Panel, float]],
    lines: Sequence[str] = (),
) -> Path:
    """Draw the panels below each other, the decisions' strip above the settings, text below."""
    numbered = numbered_decisions(contenders)
    has_strip = bool(numbered) and any(panel is panels.instances for panel, _ in stack)
    lines = lines or textwrap.wrap(_caption(trace, contenders), TEXT_COLUMNS)
    heights = [height for _, height in stack]
    if has_strip:
        heights.insert([panel for panel, _ in stack].index(panels.instances), 0.5)
    text_in = _LINE_IN * len(lines) + 0.15
    gap_in = 0.42
    height_in = sum(heights) + gap_in * len(heights) + text_in + 0.5
    with mpl.rc_context(theme.rc()):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
        FigureCanvasAgg(figure)
        top_in = height_in
        drawn: list[Axes] = []
        order = list(stack)
        for number, height in enumerate(heights):
            top_in -= gap_in
            box = (0.09, (top_in - height) / height_in, 0.89, height / height_in)
            axes = figure.add_axes(box, sharex=drawn[0] if drawn else None)
            top_in -= height
            drawn.append(axes)
            if has_strip and number == heights.index(0.5):
                panels.decisions(axes, numbered, trace.duration_s, theme)
            else:
                panel, _ = order.pop(0)
                panel(axes, contenders, theme)
                for _, index, marker in numbered:
                    axes.axvline(
                        marker.at_s,
                        color=theme.contenders[index],
                        linewidth=0.7,
                        alpha=0.45,
                        zorder=0,
                    )
        for axes in drawn[:-1]:
            axes.tick_params(labelbottom=False)
        drawn[0].set_xlim(0, trace.duration_s)
        drawn[-1].set_xlabel("seconds from the start of the trace")
        for number, line in enumerate(lines):
            figure.text(
                0.012,
                (text_in - 0.06 - _LINE_IN * number) / height_in,
                line,
                fontsize=8.2,
                va="top",
                color=theme.muted,
            )
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _caption(trace: Trace, contenders: Sequence[ContenderResult]) -> str:
    """What a reader must know of the measurement: n, seed, SLO, load."""
    seed = "no seed" if trace.seed is None else f"seed {trace.seed}"
    slo_ms = contenders[0].replay.slo_s * 1e3
    return (
        f"Open loop, n = {trace.count:,} requests per contender, {seed}, SLO {slo_ms:g} ms. "
        f"{trace.description}."
    )


def _decision_lines(contenders: Sequence[ContenderResult]) -> list[str]:
    """The numbered decisions as text, as many as fit."""
    numbered = numbered_decisions(contenders)
    lines = [
        textwrap.shorten(
            f"{number}) at {marker.at_s:.1f} s: {marker.label}", TEXT_COLUMNS, placeholder=" …"
        )
        for number, _, marker in numbered[:LISTED_DECISIONS]
    ]
    if len(numbered) > LISTED_DECISIONS:
        lines.append(f"… {len(numbered) - LISTED_DECISIONS} more in decisions.csv")
    return lines
