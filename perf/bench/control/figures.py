"""Pictures of a comparison: what each rule did over time, and what it attained at which cost."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from perf import slo
from perf.bench.control.run import ControlRun
from perf.report.style import CONTENDER_LINES, Theme

WIDTH_IN = 10.0
DPI = 150
TEXT_COLUMNS = 150
LINES_A_FIGURE = 5
SHAPES = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">", "p", "h", "d", "8")
ATTAINMENT_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
MORE = {"light": ("#56b4e9", "#7a5195", "#6b7280"), "dark": ("#8ecae6", "#b39ddb", "#9aa3ae")}
SIMULATED = " (simulated)"
LEGEND_CHARACTERS = 92
LEAST_MISSED = 1e-4  # the axis of missed requests is logarithmic; none missed is drawn here
_LEFT, _WIDTH = 0.085, 0.895
_TITLE_IN = 0.42
_LINE_IN = 0.19


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One rule in one panel of the attainment-cost picture; each value is (median, low, high).

    Attributes:
        rule: as tables call it.
        cost: instance-seconds as a multiple of those of the reference.
        attained: share of the requests within the SLO.
    """

    rule: str
    cost: tuple[float, float, float]
    attained: tuple[float, float, float]


def window_s(duration_s: float) -> float:
    """Windows of a timeline: about 150, of a round length."""
    return next((w for w in (1.0, 2.0, 5.0, 10.0) if duration_s / w <= 160), 20.0)


def look(rules: Sequence[str], theme: Theme) -> dict[str, tuple[str, str]]:
    """Colour and shape of each rule, the same in every figure of a report."""
    colours = theme.contenders[1], theme.contenders[0], *theme.contenders[2:], *MORE[theme.name]
    return {
        rule: (colours[number % len(colours)], SHAPES[number % len(SHAPES)])
        for number, rule in enumerate(rules)
    }


def groups(rules: Sequence[str]) -> list[list[str]]:
    """The rules in groups that one timeline can hold; the first rule is in each of them.

    Example:
        >>> groups(["a", "b", "c", "d", "e", "f", "g"])
        [['a', 'b', 'c', 'd', 'e'], ['a', 'f', 'g']]
    """
    if len(rules) <= LINES_A_FIGURE:
        return [list(rules)]
    first, others = rules[0], rules[1:]
    size = LINES_A_FIGURE - 1
    return [[first, *others[n : n + size]] for n in range(0, len(others), size)]


def timeline(
    path: Path,
    runs: Sequence[ControlRun],
    names: Sequence[str],
    theme: Theme,
    *,
    looks: Mapping[str, tuple[str, str]],
    caption: str,
) -> Path:
    """Load, paid instances and p99 of runs of one trace and seed, on one time axis.

    Args:
        runs: one for each rule.
        names: of the rules, in the same order.
        looks: colour and shape by name.
        caption: below the picture.
    """
    label = "simulated, " if all(run.simulated for run in runs) else ""
    length_s = window_s(runs[0].duration_s)
    lines = textwrap.wrap(caption, TEXT_COLUMNS)
    heights = (1.5, 2.2, 2.6)
    foot_in = 0.55 + _LINE_IN * len(lines) + 0.1
    labels = [name.removesuffix(SIMULATED) if label else name for name in names]
    two_rows = sum(len(text) + 8 for text in labels) > LEGEND_CHARACTERS
    legend_in = 0.5 if two_rows else 0.3
    height_in = sum(heights) + _TITLE_IN * len(heights) + foot_in + legend_in
    with mpl.rc_context(theme.rc()):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
        FigureCanvasAgg(figure)
        top_in = height_in - legend_in
        drawn: list[Axes] = []
        for panel_in in heights:
            top_in -= _TITLE_IN + panel_in
            box = (_LEFT, top_in / height_in, _WIDTH, panel_in / height_in)
            drawn.append(figure.add_axes(box, sharex=drawn[0] if drawn else None))
        _load(drawn[0], runs[0], length_s, theme, label)
        colours = [looks[name][0] for name in names]
        _instances(drawn[1], runs, colours)
        _p99(drawn[2], runs, colours, length_s, theme)
        drawn[0].set_xlim(0, runs[0].duration_s)
        drawn[-1].set_xlabel("seconds from the start of what is measured")
        for axes in drawn[:-1]:
            axes.tick_params(labelbottom=False)
        figure.legend(
            handles=[
                Line2D([], [], color=colours[number], **_stroke(number), label=text)
                for number, text in enumerate(labels)
            ],
            loc="upper left",
            bbox_to_anchor=(_LEFT - 0.01, 1.0),
            ncols=-(-len(runs) // 2) if two_rows else len(runs),
            handlelength=2.6,
            columnspacing=1.6,
        )
        _write(figure, lines, foot_in - 0.55, height_in, theme)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _stroke(number: int) -> dict[str, Any]:
    """Line style and width by the rule's place in the figure; the first one stands out."""
    styles = ("-", *CONTENDER_LINES[:1], *CONTENDER_LINES[2:])
    return {"linestyle": styles[number % len(styles)], "linewidth": 2.4 if number == 0 else 1.7}


def _load(axes: Axes, run: ControlRun, length_s: float, theme: Theme, label: str) -> None:
    """Requests a second that arrive."""
    seen = _windows(run, length_s)
    edges = np.append(seen.start_s, run.duration_s)
    axes.stairs(
        seen.offered_count / np.diff(edges), edges, fill=True, color=theme.offered, alpha=0.55
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("req/s")
    axes.set_title(f"{run.trace_name} ({label}seed {run.seed}): offered load, {length_s:g} s means")


def _instances(axes: Axes, runs: Sequence[ControlRun], colours: Sequence[str]) -> None:
    """Paid instances; lines are set apart a little so that none hides another."""
    most = max((count for run in runs for _, count in run.paid), default=1)
    for number, run in reversed(list(enumerate(runs))):
        times = [max(0.0, at_s) for at_s, _ in run.paid]
        counts = [count for _, count in run.paid]
        shift = (number - (len(runs) - 1) / 2) * 0.012 * max(4, most)
        axes.step(
            [*times, run.duration_s],
            np.array([*counts, counts[-1]]) + shift,
            where="post",
            color=colours[number],
            **_stroke(number),
        )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=2))
    axes.set_ylim(0, most * 1.08 + 0.4)
    axes.set_ylabel("instances")
    axes.set_title("Instances that are paid for (from the start of loading to the end of removal)")


def _p99(
    axes: Axes,
    runs: Sequence[ControlRun],
    colours: Sequence[str],
    length_s: float,
    theme: Theme,
) -> None:
    """p99 of the arrivals of each window, log scale, with the SLO line."""
    slo_ms = runs[0].slo_s * 1e3
    highest, lowest = slo_ms * 2, slo_ms / 2
    for number, run in reversed(list(enumerate(runs))):
        seen = _windows(run, length_s)
        p99_ms = seen.p99_s * 1e3
        finite = p99_ms[np.isfinite(p99_ms)]
        if finite.size:
            highest, lowest = max(highest, finite.max()), min(lowest, finite.min())
        middle = seen.start_s + length_s / 2
        shown = np.where(np.isinf(p99_ms), np.nan, p99_ms)
        axes.plot(middle, shown, color=colours[number], **_stroke(number))
        lost = middle[np.isinf(p99_ms)]
        axes.plot(
            lost,
            np.full(lost.size, 0.96),
            "x",
            transform=axes.get_xaxis_transform(),
            color=colours[number],
        )
    axes.axhline(slo_ms, color=theme.slo, linewidth=1.3, linestyle=(0, (5, 3)))
    axes.annotate(
        f"SLO {slo_ms:g} ms",
        (1.0, slo_ms),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontweight="bold",
        color=theme.slo,
    )
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.3, highest * 1.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: _two_or_five(value)))
    axes.set_ylabel("p99 latency (ms, log)")
    axes.set_title(
        f"p99 latency of the arrivals of each {length_s:g} s, from the intended time "
        "(x: over 1 % unanswered)"
    )


def _two_or_five(value: float) -> str:
    """The number between two powers of ten as an axis says it: only 2 and 5 times the lower one."""
    return f"{value:,.6g}" if f"{value:e}"[0] in "25" else ""


def _windows(run: ControlRun, length_s: float) -> slo.Windows:
    """The run in windows."""
    return slo.windows(
        run.intended_s, run.latency_s, slo_s=run.slo_s, until_s=run.duration_s, window_s=length_s
    )


def pareto(
    path: Path,
    panels: Sequence[tuple[str, Sequence[Point]]],
    theme: Theme,
    *,
    looks: Mapping[str, tuple[str, str]],
    reference: str,
    caption: str,
) -> Path:
    """Attainment against cost, one panel a trace: up and to the left is better."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    lines = textwrap.wrap(caption, TEXT_COLUMNS)
    text_in = _LINE_IN * len(lines) + 0.15
    panel_in = 3.6 if max(len(points) for _, points in panels) <= 6 else 4.6
    height_in = rows * (panel_in + 0.95) + text_in
    with mpl.rc_context(theme.rc()):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
        FigureCanvasAgg(figure)
        gap, width = 0.1, (0.985 - 0.1 * columns) / columns
        for number, (title, points) in enumerate(panels):
            row, column = divmod(number, columns)
            left = gap + column * (width + gap)
            bottom_in = height_in - (row + 1) * (panel_in + 0.95) + 0.5
            axes = figure.add_axes((left, bottom_in / height_in, width, panel_in / height_in))
            _pareto_panel(axes, title, points, looks, theme, reference)
        _write(figure, lines, text_in, height_in, theme)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _height(attained: float) -> float:
    """Attainment on the axis: the logarithm of what was missed, upside down."""
    return -float(np.log10(max(LEAST_MISSED, 1.0 - attained)))


def _pareto_panel(
    axes: Axes,
    title: str,
    points: Sequence[Point],
    looks: Mapping[str, tuple[str, str]],
    theme: Theme,
    reference: str,
) -> None:
    """The rules as labelled points with their ranges."""
    for point in reversed(points):  # the first rule on top
        colour, shape = looks[point.rule]
        x, y = point.cost[0], _height(point.attained[0])
        axes.plot(point.cost[1:], (y, y), color=colour, linewidth=1.2, alpha=0.6)
        spread = [_height(value) for value in point.attained[1:]]
        axes.plot((x, x), spread, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(x, y, shape, color=colour, markersize=9, markeredgecolor=theme.background)
    axes.axhline(_height(0.99), color=theme.slo, linewidth=1.2, linestyle=(0, (5, 3)))
    heights = [_height(value) for point in points for value in point.attained]
    costs = [value for point in points for value in point.cost]
    low, high = min([*heights, _height(0.97)]), max([*heights, _height(0.998)])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.1 * (high - low))
    wide = max(costs) - min(costs) or 1.0
    axes.set_xlim(min(costs) - 0.12 * wide, max(costs) + 0.2 * wide)
    ticks = [value for value in ATTAINMENT_TICKS if low - 0.05 <= _height(value) <= high + 0.05]
    axes.yaxis.set_major_locator(FixedLocator([_height(value) for value in ticks]))
    axes.yaxis.set_major_formatter(FixedFormatter([_percent(value) for value in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"cost: instance-seconds, × {reference}")
    axes.set_ylabel("requests within the SLO (log of the misses)")
    axes.set_title(title)
    _label(axes, points, looks)


def _percent(share: float) -> str:
    """An attainment as a tick says it."""
    return "> 99.99 %" if share >= 1 - LEAST_MISSED else f"{share * 100:.4g} %"


def _label(axes: Axes, points: Sequence[Point], looks: Mapping[str, tuple[str, str]]) -> None:
    """Write each rule beside its point: where no other label or point is, inside the panel."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    panel = axes.get_window_extent(renderer)
    at = {
        point.rule: axes.transData.transform((point.cost[0], _height(point.attained[0])))
        for point in points
    }
    same = all(point.rule.endswith(SIMULATED) for point in points)  # the title says it
    marks = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in at.values()]
    taken: list[Bbox] = []
    for point in sorted(points, key=lambda one: (-at[one.rule][1], at[one.rule][0])):
        x, y = at[point.rule]
        colour = looks[point.rule][0]
        text = axes.annotate(
            point.rule.removesuffix(SIMULATED) if same else point.rule,
            (point.cost[0], _height(point.attained[0])),
            xytext=(0, 0),
            textcoords="offset pixels",
            va="bottom",
            ha="left",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        size = text.get_window_extent(renderer)
        width, height = size.width, size.height

        def crowd(place: tuple[float, float], x: float = x, y: float = y) -> float:
            box = Bbox.from_bounds(x + place[0], y + place[1], width, height)  # noqa: B023
            inside = box.x0 >= panel.x0 and box.x1 <= panel.x1 + 8
            inside = inside and box.y0 >= panel.y0 and box.y1 <= panel.y1
            hits = sum(box.overlaps(other) for other in (*taken, *marks))
            far = abs(place[1] + height / 2) + min(abs(place[0]), abs(place[0] + width))  # noqa: B023
            return 1e5 * hits + (0 if inside else 1e4) + far

        places = [
            (side + shift * direction, step * height * 0.55 - height / 2)
            for direction, side in ((1, 14.0), (-1, -14.0 - width))
            for shift in (0.0, 30.0, 80.0, 160.0)
            for step in range(-16, 17)
        ]
        best = min(places, key=crowd)
        text.set_position(best)
        taken.append(Bbox.from_bounds(x + best[0], y + best[1], width, height))
        if abs(best[1] + height / 2) < height and min(abs(best[0]), abs(best[0] + width)) < 16:
            assert text.arrow_patch is not None
            text.arrow_patch.set_visible(False)


def _write(
    figure: Figure, lines: Sequence[str], text_in: float, height_in: float, theme: Theme
) -> None:
    """Small text at the foot of the figure."""
    for number, line in enumerate(lines):
        y = (text_in - 0.06 - _LINE_IN * number) / height_in
        figure.text(0.012, y, line, fontsize=8.2, va="top", color=theme.muted)
