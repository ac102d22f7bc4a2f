"""``conch perf bench ladder``: models whose memory does not hold the best version of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import TYPE_CHECKING

import click

from cli.options import json_option
from cli.output import echo, to_json
from conch.errors import ConfigError
from conch.units import DURATION

if TYPE_CHECKING:
    from perf.bench.ladder.run import Run

SHOWN = "conch,lru,static-top,static-mixed,static-cheap,ideal"


@click.command()
@click.option(
    "--models", type=click.IntRange(2, 64), default=12, show_default=True, help="How many."
)
@click.option(
    "--room",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Memory, in models at their best version.",
)
@click.option(
    "--cheap-size",
    type=click.FloatRange(0.01, 1.0),
    default=2 / 3,
    show_default="2/3",
    help="Memory of the cheap version as a share of the best one's.",
)
@click.option(
    "--phase", type=DURATION, default="5m", show_default=True, help="Popularity moves so often."
)
@click.option(
    "--phases", type=click.IntRange(1, 1000), default=6, show_default=True, help="How many."
)
@click.option(
    "--skew",
    type=click.FloatRange(0.0, 5.0),
    default=1.0,
    show_default=True,
    help="Of popularity: the n-th model is asked 1 / n**SKEW times as often as the first.",
)
@click.option(
    "--hottest",
    type=click.FloatRange(0.1, 100.0),
    default=30.0,
    show_default=True,
    help="What comes to the first one, req/s.",
)
@click.option(
    "--load-time", type=DURATION, default="5s", show_default=True, help="To load a version."
)
@click.option(
    "--contenders", default=SHOWN, show_default=True, metavar="NAME,...", help="Who plays."
)
@click.option(
    "--seeds", type=click.IntRange(1, 20), default=2, show_default=True, help="Runs of each."
)
@click.option("--real", is_flag=True, help="Play conch alone, once, on a real Triton.")
@json_option
def ladder(
    models: int,
    room: int,
    cheap_size: float,
    phase: float,
    phases: int,
    skew: float,
    hottest: float,
    load_time: float,
    contenders: str,
    seeds: int,
    real: bool,
    as_json: bool,
) -> None:
    """Hold many models in little memory while popularity moves: Conch, LRU, fixed sets.

    Simulated models of two versions, one instance each; the cheap version takes half the time.
    A request is at its best where the best version answers it in time.

    \b
    conch         the control loop's ladder; never unloads a model
    lru           best versions on demand, least recently used out; requests wait
    static-top    those asked most in the whole run at their best, no others
    static-mixed  the same at their best, the others cheap
    static-cheap  all cheap
    ideal         in each phase the right ones at their best, at once, for free

    All but conch and lru know the load beforehand. With --real, models that hold
    so much memory are loaded on a Triton of its own, best versions of 300 MiB.

    \b
    Example:
      conch perf bench ladder
      conch perf bench ladder --room 10 --phase 60s --phases 20
      conch perf bench ladder --room 10 --contenders conch,lru --seeds 5 --json
    """
    from perf.bench.ladder.contenders import CONTENDERS
    from perf.bench.ladder.loads import Load
    from perf.bench.ladder.real import play as on_triton
    from perf.bench.ladder.run import play

    names = [name.strip() for name in contenders.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in CONTENDERS]):
        raise ConfigError(
            f"contenders: {unknown[0] if names else contenders!r}, must be names with commas.",
            hint=f"Known: {', '.join(CONTENDERS)}.",
        )
    loads = [
        Load(
            models=models,
            room=room,
            cheap_size=cheap_size,
            phase_s=phase,
            phases=phases,
            skew=skew,
            hottest_rps=hottest,
            load_s=load_time,
            seed=seed,
        )
        for seed in range(1, seeds + 1)
    ]
    if not as_json:
        echo(
            f"{models} models, room for {room} at their best or {loads[0].best_at_once} beside all "
            f"others\nat their cheapest; {phases} phases of {phase:g} s; "
            f"{'one run' if real else f'means of {seeds} seeds'}.\n"
        )
        echo(f"{'':14}{'in time':>9}{'least model':>13}{'at best':>9}{'changes/h':>11}")
    runs: list[Run] = []
    for name in ["conch"] if real else names:
        mine = [on_triton(loads[0])] if real else [play(name, load) for load in loads]
        runs += mine
        if not as_json:
            echo(_line(name, mine))
    if as_json:
        told = {"schema": 1, "simulated": not real, "runs": [asdict(run) for run in runs]}
        echo(to_json(told, indent=None))


def _line(name: str, runs: Sequence[Run]) -> str:
    """One contender for people: means over the seeds, the least of its least."""
    return (
        f"{name:14}{mean(r.attainment for r in runs):>9.4f}"
        f"{min(r.least_attainment for r in runs):>13.3f}"
        f"{mean(r.at_best for r in runs):>9.3f}"
        f"{mean(r.changes_per_hour for r in runs):>11.0f}"
    )
