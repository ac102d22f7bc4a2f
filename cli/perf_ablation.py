"""``conch perf bench ablation``: which mechanisms of the controller earn their keep."""

from __future__ import annotations

from dataclasses import asdict

import click

from cli.options import json_option
from cli.output import echo, print_table, to_json
from conch.errors import ConfigError
from conch.units import DURATION


@click.command()
@click.option("--without", "names", multiple=True, help="Only this mechanism; may be repeated.")
@click.option("--load", "loads", multiple=True, help="Only this load; may be repeated.")
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="Of each.")
@click.option("--duration", type=DURATION, default="10m", show_default=True, help="Of each run.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Tables for a page.")
@json_option
def ablation(
    names: tuple[str, ...],
    loads: tuple[str, ...],
    seeds: int,
    duration: float,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Take each mechanism of the controller out, on every kind of load, in the simulator.

    Under both objectives (idle instances are free, or have a price), and with a neighbour who works
    on the machine a quarter of the time. A mechanism stays only if a run without it is worse.

    \b
    Example:
      conch perf bench ablation
      conch perf bench ablation --without recall --load bursts --seeds 5
    """
    from rich.table import Table

    from perf.bench.control.ablation import play, table
    from perf.bench.control.ablation.mechanisms import MECHANISMS
    from perf.bench.control.scenarios import KINDS

    for given, known, what in ((names, MECHANISMS, "mechanism"), (loads, KINDS, "load")):
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"{what} {name!r}: not known, must be one of {', '.join(known)}.",
                    hint="Check the spelling.",
                )
    todo = play.cases(
        names or tuple(MECHANISMS), loads or tuple(KINDS), range(1, seeds + 1), duration_s=duration
    )

    def told(done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            echo(f"[{done}/{of}]", err=True)

    rows = table.rows(play.play_all(todo, on_done=told))
    if as_json:
        echo(to_json({"simulated": True, "rows": [asdict(row) for row in rows]}, indent=None))
        return
    if as_markdown:
        echo(table.markdown(rows))
        return
    shown = Table("idle", "neighb.", "without", "late, %", "inst.", "chg/h", "loads", "worst load")
    for row in rows:
        shown.add_row(
            "dear" if row.idle_cost else "free",
            "yes" if row.neighbour else "no",
            row.mechanism,
            f"{row.late_percent:.2f}",
            f"{row.mean_instances:.2f}",
            f"{row.changes_per_hour:.1f}",
            str(row.loads_changed),
            f"{row.worst_load} {row.worst_percent:.1f} %",
        )
    print_table(shown)
