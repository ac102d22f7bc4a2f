"""``conch perf bench queue-model``: the queue model against a real Triton, point by point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from conch.errors import ThresholdMissed
from conch.tables import LiteralColumn, literal_console
from conch.units import DURATION

MOST_POINTS = 28


@click.command("queue-model")
@click.option(
    "--points",
    type=click.IntRange(1, MOST_POINTS),
    default=MOST_POINTS,
    show_default=True,
    help="Settings to measure, spread over instances, batch size, delay and load.",
)
@click.option(
    "--seconds",
    type=DURATION,
    default="25s",
    show_default=True,
    help="Load a point; up to 2.5 times as long where few requests would come.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of arrivals.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/queue-model"),
    show_default=True,
    help="Rows, replays, table and plot; points that are there already are not measured again.",
)
@json_option
def queue_model(points: int, seconds: float, seed: int, out: Path, as_json: bool) -> None:
    """Compare predicted with measured p99 on a real Triton, with an emulated accelerator.

    Each point serves a model whose batches sleep, asks it in an open loop, learns its service time
    from that run, and predicts the p99 for the same arrivals. The full grid takes about 8 minutes.
    Exits with 5 when the median error is over 20 %, or the worst over 40 %.

    \b
    Example:
      conch perf bench queue-model
      conch perf bench queue-model --points 4 --seconds 10s --json
    """
    from perf.bench import queue_model as bench
    from perf.bench.queue_model_report import write_csv, write_plot

    bars = Progress(
        LiteralColumn("queue model"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        LiteralColumn("{task.description}"),
        console=literal_console(stderr=True),
    )
    with bars:
        task = bars.add_task("", total=points)

        def told(row: dict[str, Any]) -> None:
            text = f"{row['name']}: {row['error_fraction']:+.1%}"
            bars.update(task, advance=1, description=text)

        found = bench.bench_queue_model(
            bench.grid(points), out, seconds=seconds, seed=seed, on_row=told
        )
    files = [write_csv(found, out / "queue-model.csv"), write_plot(found, out / "queue-model.png")]
    if as_json:
        print_json({**found, "files": [str(path) for path in files]})
    else:
        print_table(_table(found["points"]))
        echo(
            f"p99 error: median {found['median_error_fraction']:.1%}, "
            f"worst {found['worst_error_fraction']:.1%}; "
            f"machine at most {found['busy_fraction_max']:.0%} busy"
        )
        echo("\n".join(str(path) for path in files))
    if (
        found["median_error_fraction"] > bench.GOAL_MEDIAN
        or found["worst_error_fraction"] > bench.GOAL_WORST
    ):
        raise ThresholdMissed(
            f"queue model: median p99 error {found['median_error_fraction']:.1%}, worst "
            f"{found['worst_error_fraction']:.1%}, allowed are {bench.GOAL_MEDIAN:.0%} and "
            f"{bench.GOAL_WORST:.0%}.",
            hint="Run it again on a quiet machine: below 60 % busy.",
        )


def _table(rows: list[dict[str, Any]]) -> Table:
    """One row a point."""
    table = Table()
    heads = (
        "point",
        "c",
        "B",
        "d ms",
        "ρ",
        "req/s",
        "n",
        "p99 ms",
        "predicted ms",
        "error",
        "busy",
    )
    for name in heads:
        table.add_column(name, justify="left" if name == "point" else "right")
    for row in rows:
        table.add_row(
            row["name"],
            str(row["instances"]),
            str(row["largest_batch"]),
            f"{row['max_queue_delay_s'] * 1e3:g}",
            f"{row['load']:g}",
            f"{row['rate_rps']:g}",
            str(row["requests"]),
            f"{row['p99_ms']:.1f}",
            f"{row['p99_predicted_ms']:.1f}",
            f"{row['error_fraction']:+.1%}",
            f"{row['machine_busy_fraction']:.0%}",
        )
    return table
