"""``conch perf bench tuned``: what the controller's settings carry, against Triton's default."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from conch.errors import ThresholdMissed
from conch.names import model_name
from conch.units import OBJECTIVE


@click.command()
@click.option("--model", default="minilm_int8", show_default=True, help="That is tuned.")
@click.option(
    "--reference",
    default="minilm_fp32",
    show_default=True,
    help="That it is compared with, under the default configuration.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="Where both are; their files stay as they are.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=("sequence=32",),
    show_default=True,
    help="NAME=SIZE of the inputs.",
)
@click.option("--slo", type=OBJECTIVE, default="100ms", show_default=True, help="On p99 latency.")
@click.option("--quick", is_flag=True, help="One round of short runs: about 8 minutes, not 45.")
@click.option("--rounds", type=click.IntRange(1), help="Of everything. [default: 3]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/tuned"),
    show_default=True,
    help="Finished pieces; a second start with it resumes.",
)
@click.option("--fail-below", type=click.FloatRange(0), help="Exit with 5 when the ratio is lower.")
@json_option
def tuned(
    model: str,
    reference: str,
    repository: Path,
    shapes: tuple[str, ...],
    slo: float,
    quick: bool,
    rounds: int | None,
    out: Path,
    fail_below: float | None,
    as_json: bool,
) -> None:
    """What MODEL carries with the settings that the controller finds, against Triton's default.

    Three figures on a real Triton: how fast `conch control run` finds its settings from a cold
    start and whether they hold; the greatest load within the SLO, by probes in turn, of them, of
    the default and of --reference; and stationary loads with the controller and without it.

    \b
    Example:
      conch perf bench tuned --quick
      conch perf bench tuned --slo 50ms --json
    """
    from control.journal import codec
    from perf.bench.tuned import QUICK, Extent, Subject, TunedBench
    from perf.inputs import parse_shapes
    from serving.repository import Repository

    extent = QUICK if quick else Extent()
    subject = Subject(
        source=Repository(repository),
        reference=model_name(reference),
        model=model_name(model),
        shapes=parse_shapes(shapes),
        slo_s=slo,
    )
    bench = TunedBench(
        subject=subject,
        extent=replace(extent, rounds=rounds or extent.rounds),
        cores=os.cpu_count() or 1,
        folder=out,
        note=lambda line: echo(line, err=True),
    )
    found = bench.run()
    if as_json:
        print_json(codec.plain(found))
    else:
        _tell(found["summary"], found["stationary"])
    echo(f"Pieces: {out}", err=True)
    ratio = found["summary"]["conch_ratio_to"]["default"]["median"]
    if fail_below is not None and ratio < fail_below:
        raise ThresholdMissed(
            f"tuned: ratio to the default {ratio:.2f}, must be at least {fail_below:g}.",
            hint="Run it again on a quiet machine, with another --out.",
        )


def _tell(summary: dict[str, Any], stationary: dict[str, Any]) -> None:
    """The figures for people: medians, in brackets the range over the rounds."""
    table = Table("configuration", "capacity, req/s", "Conch's is so many times it")
    for label, text in (
        ("reference_default", "reference, Triton's default"),
        ("default", "model, Triton's default"),
        ("conch", "model, found by the controller"),
    ):
        ratio = summary["conch_ratio_to"].get(label)
        carried = _range(summary["capacity_rps"][label], ".0f")
        table.add_row(text, carried, _range(ratio, ".2f") if ratio else "")
    print_table(table)
    cold = summary["cold"]
    echo(
        f"Cold start: settings final after {_range(cold['final_s'], '.0f')} s, SLO met from "
        f"{_range(cold['met_s'], '.0f')} s on; after the first minute "
        f"{_range(cold['held_attainment'], '.4f')} of the requests met it."
    )
    table = Table("stationary load", "default", "conch", "default again", "p99, ms", "worse")
    for share, rounds in stationary.items():
        for pair in rounds:
            p99 = (pair[f"{key}_p99_s"] * 1e3 for key in ("before", "conch", "after"))
            table.add_row(
                f"{float(share) * 100:.0f} % = {pair['rate_rps']:.0f} req/s",
                *(f"{pair[key]:.4f}" for key in ("before", "conch", "after")),
                " / ".join(f"{value:.0f}" for value in p99),
                "yes" if share in summary["worse_at"] else "no",
            )
    print_table(table)


def _range(spread: dict[str, float], spec: str) -> str:
    """Median (lowest to highest)."""
    low, high = format(spread["low"], spec), format(spread["high"], spec)
    return f"{format(spread['median'], spec)} ({low} to {high})"
