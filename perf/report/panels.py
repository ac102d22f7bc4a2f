"""The panels of the figures: each draws one thing onto an axis whose x is the trace's time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from perf.report.contender import ContenderResult, Marker, TimelinePoint
from perf.report.style import CONTENDER_LINES, MARKER_SHAPES, OTHER_SHAPE, Theme

MARKER_ROWS = 3
LEGEND_CHARACTERS = 75
MARKER_GAP_FRACTION = 0.026  # of the x axis: closer ones go to the next row


def offered_and_completed(axes: Axes, contenders: Sequence[ContenderResult], theme: Theme) -> None:
    """Requests a second that arrive (filled) and that each contender completes (lines)."""
    first = contenders[0].replay.windows()
    axes.stairs(
        first.offered_count / first.window_s,
        _edges(first.start_s, first.window_s),
        fill=True,
        color=theme.offered,
        alpha=0.35,
        label="offered",
    )
    for index, contender in enumerate(contenders):
        seen = contender.replay.windows()
        axes.plot(
            seen.start_s + seen.window_s / 2,
            seen.completed_count / seen.window_s,
            color=_colour(theme, index),
            linestyle=CONTENDER_LINES[index % len(CONTENDER_LINES)],
            label=contender.name,
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests per second")
    axes.set_title("Offered load (grey) and completions, 1 s windows")
    _legend(axes)


def p99_against_slo(axes: Axes, contenders: Sequence[ContenderResult], theme: Theme) -> None:
    """p99 latency of each second's arrivals, log scale, against the SLO line."""
    slo_ms = contenders[0].replay.slo_s * 1e3
    highest = slo_ms * 2
    lowest = slo_ms / 2
    for index, contender in enumerate(contenders):
        seen = contender.replay.windows()
        p99_ms = seen.p99_s * 1e3
        finite = p99_ms[np.isfinite(p99_ms)]
        if finite.size:
            highest, lowest = max(highest, finite.max()), min(lowest, finite.min())
        axes.plot(
            seen.start_s + seen.window_s / 2,
            np.where(np.isinf(p99_ms), np.nan, p99_ms),
            color=_colour(theme, index),
            linestyle=CONTENDER_LINES[index % len(CONTENDER_LINES)],
            label=contender.name,
        )
        lost = seen.start_s[np.isinf(p99_ms)] + seen.window_s / 2
        if lost.size:
            axes.plot(
                lost,
                np.full(lost.size, 0.97),
                "x",
                transform=axes.get_xaxis_transform(),
                color=_colour(theme, index),
                label=f"{contender.name}: over 1 % unanswered",
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
    axes.set_ylim(lowest / 1.5, highest * 2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_ylabel("p99 latency (ms, log)")
    axes.set_title("p99 latency of each second's arrivals, from the intended time")
    _legend(axes)


def instances(axes: Axes, contenders: Sequence[ContenderResult], theme: Theme) -> None:
    """Instance count over time."""
    for index, contender in enumerate(contenders):
        values = [point.instances for point in contender.timeline]
        _steps(axes, contender, values, index, len(contenders), theme)
    axes.set_ylabel("instances")
    axes.set_title("Instance count")
    _whole_numbers(axes)
    _legend(axes)


def batching(axes: Axes, contenders: Sequence[ContenderResult], theme: Theme) -> None:
    """Max batch size over time, with the queue delay written where it changes."""
    for index, contender in enumerate(contenders):
        values = [point.max_batch_size for point in contender.timeline]
        _steps(axes, contender, values, index, len(contenders), theme)
        for point in _delay_changes(contender.timeline):
            axes.annotate(
                f"delay {point.max_queue_delay_s * 1e3:g} ms",
                (max(point.at_s, 0.0), point.max_batch_size),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color=_colour(theme, index),
            )
    axes.set_ylabel("requests")
    axes.set_title("Max batch size (1 = no dynamic batching) and max queue delay")
    _whole_numbers(axes)


def decisions(
    axes: Axes, numbered: Sequence[tuple[int, int, Marker]], until_s: float, theme: Theme
) -> None:
    """A strip of numbered markers; ``numbered`` holds (number, contender's index, marker)."""
    ends = [-np.inf] * MARKER_ROWS
    for number, index, marker in numbered:
        row = next(
            (
                row
                for row, end in enumerate(ends)
                if marker.at_s - end >= MARKER_GAP_FRACTION * until_s
            ),
            int(np.argmin(ends)),
        )
        ends[row] = marker.at_s
        axes.plot(
            marker.at_s,
            -row,
            MARKER_SHAPES.get(marker.kind, OTHER_SHAPE),
            markersize=13,
            color=_colour(theme, index),
            clip_on=False,
        )
        axes.annotate(
            str(number),
            (marker.at_s, -row),
            ha="center",
            va="center_baseline",
            fontsize=7.5 if number < 100 else 6,
            fontweight="bold",
            color=theme.background,
        )
    rows = max(1, sum(np.isfinite(ends)))
    axes.set_ylim(-rows + 0.4, 0.6)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_title("Decisions (circle: instances, square: batching, diamond: rollback)")


def decision_lines(axes: Axes, numbered: Sequence[tuple[int, int, Marker]], theme: Theme) -> None:
    """A thin line at each decision, in its contender's colour."""
    for _, index, marker in numbered:
        axes.axvline(marker.at_s, color=_colour(theme, index), linewidth=0.7, alpha=0.45, zorder=0)


def _steps(
    axes: Axes,
    contender: ContenderResult,
    values: Sequence[int],
    index: int,
    count: int,
    theme: Theme,
) -> None:
    """A step line from 0 to the end; lines are set apart a little so that none hides another."""
    until_s = contender.replay.duration_s
    starts = [0.0, *(point.at_s for point in contender.timeline[1:])]
    shift = (index - (count - 1) / 2) * 0.06 * max(1.0, np.log2(max(values, default=1)))
    axes.step(
        [*starts, until_s],
        np.array([*values, values[-1]]) + shift,
        where="post",
        color=_colour(theme, index),
        linestyle=CONTENDER_LINES[index % len(CONTENDER_LINES)],
        linewidth=2.2,
        label=contender.name,
    )


def _delay_changes(timeline: Sequence[TimelinePoint]) -> list[TimelinePoint]:
    """The points at which batching is on and its delay is not what it was."""
    changes = []
    before: float | None = None
    for point in timeline:
        if point.max_batch_size > 1 and point.max_queue_delay_s != before:
            changes.append(point)
        before = point.max_queue_delay_s if point.max_batch_size > 1 else None
    return changes


def _whole_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=2))
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high + 0.18 * (high - min(0.0, low)))


def _legend(axes: Axes) -> None:
    """Above the plot at the right, beside the title; inside the plot when it is long."""
    handles, labels = axes.get_legend_handles_labels()
    if sum(len(label) + 6 for label in labels) <= LEGEND_CHARACTERS:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=len(labels),
            borderaxespad=0.1,
            handlelength=1.8,
        )
    else:
        axes.legend(handles, labels, loc="best", ncols=2, frameon=True, framealpha=0.8)


def _edges(start_s: np.ndarray, window_s: float) -> np.ndarray:
    return np.append(start_s, start_s[-1] + window_s)


def _colour(theme: Theme, index: int) -> str:
    return theme.contenders[index % len(theme.contenders)]
