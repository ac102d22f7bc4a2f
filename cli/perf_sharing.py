"""``conch perf bench sharing``: several models on one server, whose load moves between them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from cli.options import json_option
from cli.output import echo, to_json
from conch.errors import ConfigError, LoadError, TritonUnavailable
from conch.units import DURATION

SHOWN = "conch,conch-slots,limiter,limiter-delay,even-split-refuse,fixed"


@click.command()
@click.option("--models", type=click.IntRange(2, 8), default=2, show_default=True, help="How many.")
@click.option(
    "--budget",
    type=click.IntRange(3, 64),
    default=4,
    show_default=True,
    help="Instances that may execute at once, over all models.",
)
@click.option(
    "--loads",
    default="0.8,1",
    show_default=True,
    metavar="RATIO,...",
    help="Of what the budget carries within the SLO if it were split right in each phase.",
)
@click.option("--phase", type=DURATION, default="60s", show_default=True, help="Length of one.")
@click.option(
    "--phases", type=click.IntRange(1, 100), default=4, show_default=True, help="How many."
)
@click.option(
    "--contenders",
    default=SHOWN,
    show_default=True,
    metavar="NAME,...",
    help="conch, limiter, even-split, fixed:3-1, each also with -refuse or -delay; conch-slots; "
    "fixed is every split.",
)
@click.option("--seed", default=1, show_default=True, help="Of the arrivals.")
@click.option(
    "--head-start",
    type=click.IntRange(0, 1_000_000),
    default=0,
    help="Batches that the first model has executed before; the limiter lets others go first.",
)
@click.option("--simulate", is_flag=True, help="On the simulator; not conch-slots, conch-refuse.")
@json_option
def sharing(
    models: int,
    budget: int,
    loads: str,
    phase: float,
    phases: int,
    contenders: str,
    seed: int,
    head_start: int,
    simulate: bool,
    as_json: bool,
) -> None:
    """Share one server among models whose load moves: Conch, Triton's rate limiter, fixed splits.

    In each phase another model is busy. Real Triton instances whose batches sleep (examples/
    emulated). limiter: every model has budget - 1 instances, and `--rate-limit` lets the budget
    execute at once. even-split-refuse: equal parts, and what waits too long is refused.

    \b
    Example:
      conch perf bench sharing --phase 30s
      conch perf bench sharing --models 3 --budget 5 --contenders conch,limiter,fixed
      conch perf bench sharing --simulate --budget 8 --contenders fixed:5-3,even-split-refuse
    """
    from perf.bench.sharing import contenders as ways
    from perf.bench.sharing import loads as moving
    from perf.bench.sharing import real, simulated

    play = simulated.play if simulate else real.play
    rows, failures = [], []
    for ratio in _ratios(loads):
        load = moving.moving(
            models=models,
            budget=budget,
            ratio=ratio,
            phase_s=phase,
            phases=phases,
            seed=seed,
            head_start=head_start,
        )
        for one in ways.contenders(contenders, load):
            try:
                row = play(one, load)
            except (LoadError, TritonUnavailable) as error:  # the others are to be played
                failures.append(f"{one.label} at {ratio:.0%}: {error.message}")
                echo(failures[-1], err=True)
                continue
            rows.append({**asdict(row), "starved": row.starved})
            if not as_json:
                echo(_line(rows[-1]))
    if as_json:
        told = {"schema": 1, "simulated": simulate, "runs": rows, "failures": failures}
        echo(to_json(told, indent=None))
    if failures:
        raise LoadError(
            f"bench sharing: {len(failures)} runs did not finish ({failures[0]}).",
            hint="Play these contenders again: --contenders NAME.",
        )


def _ratios(text: str) -> list[float]:
    """The loads of a list."""
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError:
        ratios = []
    if not ratios or not all(0.0 < ratio <= 10.0 for ratio in ratios):
        raise ConfigError(
            f"loads: {text!r}, must be numbers above 0, at most 10, with commas between them.",
            hint="Example: --loads 0.8,1",
        )
    return ratios


def _line(row: dict[str, Any]) -> str:
    """One run for people."""
    parts = "; ".join(
        f"{name}: {row['models'][name]:.2f} ({' '.join(f'{x:.2f}' for x in phases)})"
        for name, phases in row["phases"].items()
    )
    batches = ", ".join(f"{mean:.1f}" for mean in row["mean_batch"].values())
    notes = [
        f"refused {row['refused']:.0%}",
        *([f"mean batch {batches}"] if batches else []),
        *([f"changes {row['changes']}, reloads {row['reloads']}"] if row["changes"] else []),
        "simulated" if row["simulated"] else _machine(row),
        *(["a model starved"] if row["starved"] else []),
        *([] if row["valid"] else ["NOT VALID: the client fell behind"]),
    ]
    told = f"{row['ratio']:.0%} {row['contender']:20} {row['attainment']:.3f}"
    return f"{told}  {parts}  [{', '.join(notes)}]"


def _machine(row: dict[str, Any]) -> str:
    """How busy the machine was."""
    return f"machine {row['busy_fraction']:.0%} busy, load {row['load_average']:.1f}"
