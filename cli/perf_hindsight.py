"""``conch perf bench hindsight``: what releases cost, against the best ones known afterwards."""

from __future__ import annotations

from dataclasses import asdict

import click

from cli.options import json_option
from cli.output import echo, print_table, to_json
from conch.errors import ConfigError
from conch.units import DURATION


@click.command()
@click.option("--load", "loads", multiple=True, help="Only this load; may be repeated.")
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="Of each.")
@click.option("--duration", type=DURATION, default="10m", show_default=True, help="Of each run.")
@click.option(
    "--idle-cost",
    "idle_costs",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(10_000.0, 60_000.0),
    show_default=True,
    help="Late requests that an idle instance is worth for each hour; may be repeated.",
)
@json_option
def hindsight(
    loads: tuple[str, ...],
    seeds: int,
    duration: float,
    idle_costs: tuple[float, ...],
    as_json: bool,
) -> None:
    """Compare Conch's releases with the best release times in hindsight, in the simulator.

    Both have the same acquisitions and pay the same prices: `idle_cost` for an instance that nobody
    needs, and all requests of a loading time where one must be loaded again. The best release times
    come from a dynamic program that knows the whole load.

    \b
    Example:
      conch perf bench hindsight
      conch perf bench hindsight --load step --idle-cost 200000 --duration 1h --json
    """
    from rich.table import Table

    from perf.bench.control.hindsight import play
    from perf.bench.control.scenarios import KINDS

    for name in loads:
        if name not in KINDS:
            raise ConfigError(
                f"load {name!r}: not known, must be one of {', '.join(KINDS)}.",
                hint="Check the spelling.",
            )
    outcomes = play.play_all(
        [
            play.Case(load=load, seed=seed, idle_cost=idle_cost, duration_s=duration)
            for idle_cost in idle_costs
            for load in loads or tuple(KINDS)
            for seed in range(1, seeds + 1)
        ]
    )
    if as_json:
        rows = [
            {
                **asdict(o.case),
                "attainment": o.attainment,
                **asdict(o.found),
                "ratio": o.found.ratio,
            }
            for o in outcomes
        ]
        echo(to_json({"simulated": True, "runs": rows}, indent=None))
        return
    shown = Table("idle cost", "load", "seed", "in SLO, %", "given back", "cost", "best", "ratio")
    for o in outcomes:
        shown.add_row(
            f"{o.case.idle_cost:,.0f}",
            o.case.load,
            str(o.case.seed),
            f"{100 * o.attainment:.2f}",
            str(o.found.releases),
            f"{o.found.idle + o.found.loading:,.0f}",
            f"{o.found.best:,.0f}",
            f"{o.found.ratio:.2f}",
        )
    print_table(shown)
    worst = max(outcomes, key=lambda o: o.found.ratio)
    echo(
        f"Simulated. At most {worst.found.ratio:.2f} times the best in hindsight "
        f"({worst.case.load}, seed {worst.case.seed}, idle cost {worst.case.idle_cost:,.0f})."
    )
