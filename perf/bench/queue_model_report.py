"""The queue model's validation as a table in a file and as a picture."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.report.style import LIGHT

_COLUMNS = (
    "name",
    "alpha_s",
    "beta_s",
    "instances",
    "largest_batch",
    "max_queue_delay_s",
    "load",
    "rate_rps",
    "seconds",
    "seed",
    "requests",
    "mean_batch",
    "mean_batch_predicted",
    "p50_ms",
    "p50_predicted_ms",
    "p99_ms",
    "p99_predicted_ms",
    "error_fraction",
    "transport_ms",
    "overhead_ms",
    "machine_busy_fraction",
)
_SHAPES = {1: "o", 2: "s", 4: "^", 8: "D"}


def write_csv(found: Mapping[str, Any], path: Path) -> Path:
    """One row a point; units are in the names of the columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found["points"])
    return path


def write_plot(found: Mapping[str, Any], path: Path) -> Path:
    """Predicted over measured p99, both in ms and logarithmic, with bands of 20 % and 40 %."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    rows = found["points"]
    values = [row[key] for row in rows for key in ("p99_ms", "p99_predicted_ms")]
    ends = [min(values) / 1.3, max(values) * 1.3]
    with mpl.rc_context(LIGHT.rc()):
        figure = Figure(figsize=(7.2, 6.6), dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.11, 0.2, 0.85, 0.73))
        for share, shade in ((0.4, 0.10), (0.2, 0.14)):
            axes.fill_between(
                ends,
                [end * (1 - share) for end in ends],
                [end * (1 + share) for end in ends],
                color=LIGHT.muted,
                alpha=shade,
                linewidth=0,
                label=f"within {share:.0%}",
            )
        axes.plot(ends, ends, color=LIGHT.muted, linewidth=1, label="exact")
        for colour, (count, shape) in zip(LIGHT.contenders, _SHAPES.items(), strict=False):
            for delayed in (False, True):
                chosen = [
                    row
                    for row in rows
                    if row["instances"] == count and (row["max_queue_delay_s"] > 0) == delayed
                ]
                axes.plot(
                    [row["p99_ms"] for row in chosen],
                    [row["p99_predicted_ms"] for row in chosen],
                    shape,
                    color=colour,
                    markerfacecolor=colour if delayed else "none",
                    markersize=6.5,
                    label=f"c = {count}, {'d > 0' if delayed else 'd = 0'}",
                )
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("measured p99, ms (real Triton, emulated accelerator)")
        axes.set_ylabel("predicted p99, ms")
        axes.set_title("The queue model against a real Triton")
        axes.legend(loc="upper left", ncols=2)
        for number, line in enumerate(_caption(found)):
            figure.text(0.03, 0.1 - 0.028 * number, line, fontsize=8.2, color=LIGHT.muted)
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _caption(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the measurement."""
    rows = found["points"]
    requests = [row["requests"] for row in rows]
    worst, middle = found["worst_error_fraction"], found["median_error_fraction"]
    sizes = f"n = {min(requests):,} to {max(requests):,} requests each"
    given = f"seed {rows[0]['seed']}; the model is given the same arrivals"
    machine = f"{os.cpu_count()} cores {platform.machine()} {platform.system()}"
    busy = f"at most {found['busy_fraction_max']:.0%} busy"
    return [
        f"{len(rows)} points, {sizes}, open loop, Poisson, {given}.",
        f"|error| of p99: median {middle:.1%}, worst {worst:.1%}. c 1 to 8, B 1 to 16, ρ 0.3–0.9.",
        f"{machine}, {busy}. Batches sleep: an emulator, no model.",
    ]
