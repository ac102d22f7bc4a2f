"""Whole figures as PNG files: single panels for the page, all of them stacked for an overview."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
_LEFT, _WIDTH = 0.09, 0.89  # of the figure
_TITLE_IN = 0.42
_AXIS_LABEL_IN = 0.5
_LINE_IN = 0.19
_STRIP_IN = 0.5

Panel = Callable[[Axes, Sequence[ContenderResult], Theme], None]
Stack = Sequence[tuple[Panel, float]]  # panels from the top, with their heights in inches


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What every figure of a report shows, in one colour scheme."""

    trace: Trace
    contenders: Sequence[ContenderResult]
    theme: Theme
    hardware: str

    @property
    def numbered(self) -> list[tuple[int, int, Marker]]:
        """Every decision, numbered."""
        return numbered_decisions(self.contenders)


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


def load(path: Path, scene: Scene) -> Path:
    """Offered load and completions."""
    return _draw(path, scene, [(panels.offered_and_completed, 2.7)], _caption(scene))


def latency(path: Path, scene: Scene) -> Path:
    """p99 against the SLO."""
    return _draw(path, scene, [(panels.p99_against_slo, 3.0)], _caption(scene))


def settings(path: Path, scene: Scene) -> Path:
    """Decisions, instances and batch settings."""
    stack: Stack = [(panels.instances, 1.6), (panels.batching, 1.5)]
    return _draw(path, scene, stack, _caption(scene))


def overview(path: Path, scene: Scene) -> Path:
    """Everything, stacked, with the list of decisions and a caption: stands alone in a README."""
    stack: Stack = [
        (panels.offered_and_completed, 2.0),
        (panels.p99_against_slo, 2.3),
        (panels.instances, 1.15),
        (panels.batching, 1.15),
    ]
    listed = _decision_lines(scene)
    return _draw(path, scene, stack, [*listed, *([""] if listed else []), *_caption(scene)])


def _draw(path: Path, scene: Scene, stack: Stack, lines: Sequence[str]) -> Path:
    """Draw the panels below each other with the text below them, and save the picture."""
    rows = _with_strip(scene, stack)
    text_in = _LINE_IN * len(lines) + 0.15
    height_in = sum(height + _TITLE_IN for _, height in rows) + text_in + _AXIS_LABEL_IN
    with mpl.rc_context(scene.theme.rc()):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
        FigureCanvasAgg(figure)
        top_in = height_in
        drawn: list[Axes] = []
        for panel, panel_in in rows:
            top_in -= _TITLE_IN + panel_in
            box = (_LEFT, top_in / height_in, _WIDTH, panel_in / height_in)
            axes = figure.add_axes(box, sharex=drawn[0] if drawn else None)
            panel(axes, scene.contenders, scene.theme)
            drawn.append(axes)
        for axes in drawn[:-1]:
            axes.tick_params(labelbottom=False)
        drawn[0].set_xlim(0, scene.trace.duration_s)
        drawn[-1].set_xlabel("seconds from the start of the trace")
        _write(figure, lines, text_in, height_in, scene.theme)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _with_strip(scene: Scene, stack: Stack) -> list[tuple[Panel, float]]:
    """The stack with decision lines in each panel, and a strip of markers above the settings."""
    numbered = scene.numbered

    def strip(axes: Axes, _: Sequence[ContenderResult], theme: Theme) -> None:
        panels.decisions(axes, numbered, scene.trace.duration_s, theme)

    def marked(panel: Panel) -> Panel:
        def both(axes: Axes, contenders: Sequence[ContenderResult], theme: Theme) -> None:
            panel(axes, contenders, theme)
            panels.decision_lines(axes, numbered, theme)

        return both

    rows: list[tuple[Panel, float]] = []
    for panel, height in stack:
        if panel is panels.instances and numbered:
            rows.append((strip, _STRIP_IN))
        rows.append((marked(panel), height))
    return rows


def _write(
    figure: Figure, lines: Sequence[str], text_in: float, height_in: float, theme: Theme
) -> None:
    """Small text at the foot of the figure."""
    for number, line in enumerate(lines):
        y = (text_in - 0.06 - _LINE_IN * number) / height_in
        figure.text(0.012, y, line, fontsize=8.2, va="top", color=theme.muted)


def _caption(scene: Scene) -> list[str]:
    """What a reader must know of the measurement: n, seed, SLO, load, hardware."""
    seed = "no seed" if scene.trace.seed is None else f"seed {scene.trace.seed}"
    slo_ms = scene.contenders[0].replay.slo_s * 1e3
    text = (
        f"Open loop, n = {scene.trace.count:,} requests per contender, {seed}, "
        f"SLO {slo_ms:g} ms. {scene.trace.description}."
    )
    return [*textwrap.wrap(text, TEXT_COLUMNS), *textwrap.wrap(scene.hardware, TEXT_COLUMNS)]


def _decision_lines(scene: Scene) -> list[str]:
    """The numbered decisions as text, as many as fit."""
    numbered = scene.numbered
    lines = [
        textwrap.shorten(
            f"{number}) at {marker.at_s:.1f} s: {marker.label}", TEXT_COLUMNS, placeholder=" …"
        )
        for number, _, marker in numbered[:LISTED_DECISIONS]
    ]
    if len(numbered) > LISTED_DECISIONS:
        lines.append(f"… {len(numbered) - LISTED_DECISIONS} more in decisions.csv")
    return lines
