"""Quality against cost: each variant's place, and the front of those that passed their gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from export.report import CandidateReport, Report, Status, VariantReport
from export.report_figures.svg import colour_of, drawing, svg
from perf.report.style import LIGHT

PASSED = (Status.PUBLISHED, Status.ACCEPTED, Status.DOMINATED)
LOG_FROM = 6.0
"""Costs that differ by this factor get a logarithmic axis."""

NEAREST_ONE = 1e-4
"""Fractions closer to 1 than this are drawn as this far from it."""

NINES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)

OFFSETS = ((8, 0), (-8, 0), (6, 9), (-6, 9), (6, -10), (-6, -10), (0, 16), (0, -17), (0, 28))
"""Where a name may stand, in points from its spot: the first that hides nothing is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place in a trade-off.

    Attributes:
        name: the variant; empty for a candidate of a search.
        cost: milliseconds or megabytes.
        quality: more is better.
        status: what became of it.
        interval: where the quality lies with 95 % confidence.
    """

    name: str
    cost: float
    quality: float
    status: Status
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One quality: ``fidelity`` with its metric, or ``task`` with its name."""

    kind: Literal["fidelity", "task"]
    metric: str

    @property
    def title(self) -> str:
        """As people read it."""
        words = self.metric.replace("_", " ")
        return f"Fidelity ({words})" if self.kind == "fidelity" else f"Task: {words}"

    @property
    def is_fraction(self) -> bool:
        """Whether 1 is the best there is."""
        return self.kind == "fidelity" and self.metric != "sqnr_db"

    def place(self, quality: float) -> float:
        """Where a figure is drawn: a perfect fraction has a place on the stretched axis, too."""
        return min(quality, 1 - NEAREST_ONE) if self.is_fraction else quality

    def of(self, one: VariantReport | CandidateReport) -> float | None:
        """The figure, when there is one and it is finite."""
        if self.kind == "task":
            return number(one.task_metric)
        if isinstance(one, VariantReport):
            return number(getattr(one.agreement, self.metric, None))
        return number(one.fidelity)

    def limit(self, report: Report) -> float | None:
        """The highest bound on it, when that is the same for all variants."""
        key = f"{self.kind}.{self.metric}"
        limits = [[g.limit for g in v.gates if g.gate == key] for v in report.variants]
        bounds = {max(own) for own in limits if own}
        return number(bounds.pop()) if len(bounds) == 1 else None


def tradeoffs(report: Report) -> str:
    """Each quality against latency and size as SVG; empty when fewer than two are comparable."""
    batch = typical_batch(report)
    columns = [None] if batch is None else [batch, None]
    rows = [measure for measure in measures(report) if len(spots(report, measure, columns[0])) > 1]
    if not rows:
        return ""
    with drawing(3.5 * len(rows)) as figure:
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, measure in zip(grid, rows, strict=True):
            for axes, column in zip(line, columns, strict=True):
                found = spots(report, measure, column)
                _draw(axes, found, measure)
                if (limit := measure.limit(report)) is not None:
                    axes.axhline(limit, color=LIGHT.text, linewidth=1.1, linestyle=(0, (5, 3)))
                if measure.is_fraction:
                    _stretch_near_one(axes)
                cost = "size" if column is None else f"latency at batch {column}"
                axes.set_title(f"{measure.title}, against {cost}")
                axes.set_xlabel("MB" if column is None else "ms, median")
        figure.draw_without_rendering()
        for axes in grid.flat:
            _unhide_names(figure, axes)
        return svg(figure, alt="Scatter plots: quality of each variant against latency and size.")


def measures(report: Report) -> list[Measure]:
    """The fidelity that most gates judge (cosine without one), and the task metric."""
    gates = [gate.gate for variant in report.variants for gate in variant.gates]
    judged = [gate.removeprefix("fidelity.") for gate in gates if gate.startswith("fidelity.")]
    metric = max(judged, key=judged.count, default="cosine")
    found = [Measure(kind="fidelity", metric=metric)]
    return found + ([Measure(kind="task", metric=report.task)] if report.task else [])


def typical_batch(report: Report) -> int | None:
    """The batch size that latencies are compared at: the middle one of those measured."""
    batches = sorted({batch for variant in report.variants for batch in variant.latency_ms})
    return batches[len(batches) // 2] if batches else None


def spots(report: Report, measure: Measure, batch: int | None) -> list[Spot]:
    """The variants and candidates with this quality and this cost.

    Args:
        report: the run.
        measure: the quality.
        batch: latency at this batch size is the cost; size where it is None.
    """
    found = []
    baseline = next((one for one in report.variants if one.name == report.baseline), None)
    unit = _cost(baseline, batch) if baseline is not None else None
    for variant in report.variants:
        cost, quality = _cost(variant, batch), measure.of(variant)
        # A variant that was kept has the baseline's files, and so the baseline's place.
        if cost and quality is not None and variant.status is not Status.KEPT:
            found.append(
                Spot(
                    name=variant.name,
                    cost=cost,
                    quality=quality,
                    status=variant.status,
                    interval=_interval(variant) if measure.kind == "task" else None,
                )
            )
        for one in variant.candidates:
            ratio = one.size_ratio if batch is None else one.latency_ratio.get(batch)
            quality = measure.of(one)
            if ratio and unit and quality is not None and not one.chosen:
                found.append(Spot(name="", cost=ratio * unit, quality=quality, status=one.status))
    return found


def front(found: Sequence[Spot]) -> list[Spot]:
    """Those that no other beats in both cost and quality, the cheapest first."""
    best: list[Spot] = []
    for spot in sorted(found, key=lambda spot: (spot.cost, -spot.quality)):
        if not best or spot.quality > best[-1].quality:
            best.append(spot)
    return best


def number(value: float | None) -> float | None:
    """The value, when it is one that can be drawn."""
    return value if value is not None and math.isfinite(value) else None


def _cost(variant: VariantReport, batch: int | None) -> float | None:
    """Megabytes, or milliseconds at the batch size."""
    return variant.size_bytes / 1e6 if batch is None else variant.latency_ms.get(batch)


def _interval(variant: VariantReport) -> tuple[float, float] | None:
    """Confidence interval of the task metric itself, from that of its difference."""
    if variant.task_interval is None or variant.task_baseline is None:
        return None
    low, high = variant.task_interval
    return variant.task_baseline + low, variant.task_baseline + high


def _draw(axes: Axes, found: Sequence[Spot], measure: Measure) -> None:
    """Spots and front; names stand to the right for now."""
    steps = front([spot for spot in found if spot.status in PASSED and spot.name])
    axes.step(
        [spot.cost for spot in steps],
        [measure.place(spot.quality) for spot in steps],
        where="post",
        color=LIGHT.contenders[2],
        linewidth=1.2,
        alpha=0.7,
        zorder=1,
    )
    for spot in found:
        passed = spot.status in PASSED
        colour = colour_of(spot.status)
        if spot.interval is not None:
            axes.vlines(spot.cost, *spot.interval, color=colour, linewidth=1.2, zorder=2)
        axes.plot(
            spot.cost,
            measure.place(spot.quality),
            marker="o" if passed else "x",
            markersize=8 if spot.name else 4,
            markeredgewidth=1.0 if passed or not spot.name else 2.5,
            color=colour,
            zorder=3,
        )
        if spot.name:
            axes.annotate(
                spot.name,
                (spot.cost, measure.place(spot.quality)),
                xytext=OFFSETS[0],
                textcoords="offset points",
                va="center",
                fontsize=9,
                bbox={"facecolor": LIGHT.background, "linewidth": 0, "alpha": 0.8, "pad": 0.8},
            )
    costs = [spot.cost for spot in found]
    if min(costs) * LOG_FROM < max(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.14)


def _stretch_near_one(axes: Axes) -> None:
    """Give 0.9, 0.99 and 0.999 equal distances: that is where variants differ."""

    def nines(value: NDArray[np.float64]) -> NDArray[np.float64]:
        far: NDArray[np.float64] = np.maximum(1 - value, 1e-9)
        return -np.log10(far)

    low, high = axes.get_ylim()
    low = max(low, 0.0)
    axes.set_yscale("function", functions=(nines, lambda exponent: 1 - 10.0**-exponent))
    axes.set_ylim(low - 0.5 * (1 - low), min(max(high, 1 - NEAREST_ONE), 1 - NEAREST_ONE / 2))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in NINES if tick > low]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_fraction))


def _fraction(value: float, _: int | None) -> str:
    """A tick of the stretched axis; at its end is whatever is nearer to 1, too."""
    return f"{'≥ ' if value >= 1 - 1.01 * NEAREST_ONE else ''}{value:.6g}"


def _unhide_names(figure: Figure, axes: Axes) -> None:
    """Move each name to the first place where it hides no spot and no other name."""
    from matplotlib.backends.backend_agg import RendererAgg

    renderer = RendererAgg(1, 1, figure.dpi)  # type: ignore[no-untyped-call]
    dots = [
        Bbox.from_bounds(x - 5, y - 5, 10, 10)
        for line in axes.lines
        if line.get_marker() not in ("None", None, "")
        for x, y in axes.transData.transform(line.get_xydata())
    ]
    taken: list[Bbox] = []
    frame = axes.get_window_extent(renderer)
    for name in (text for text in axes.texts if isinstance(text, Annotation)):
        best = None
        for dx, dy in OFFSETS:
            name.set_position((dx, dy))
            name.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            box = name.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            hidden = box.count_overlaps([*dots, *taken]) + 3 * (not inside)
            if best is None or hidden < best[0]:
                best = (hidden, (dx, dy), name.get_horizontalalignment(), box)
            if hidden == 0:
                break
        if best is not None:
            name.set_position(best[1])
            name.set_horizontalalignment(best[2])
            taken.append(best[3])
