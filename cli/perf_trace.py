"""``conch perf trace``: arrival times from a seed, as a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.output import echo
from conch.errors import ConfigError
from conch.units import DURATION, parse_duration

if TYPE_CHECKING:
    from perf.traces import Trace

KINDS = ("constant", "poisson", "step", "ramp", "diurnal", "burst")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--rate", type=float, help="Mean rate, req/s: constant, poisson, burst.")
@click.option("--from", "low", type=float, help="First (ramp) or lowest (diurnal) rate, req/s.")
@click.option("--to", "high", type=float, help="Last (ramp) or highest (diurnal) rate, req/s.")
@click.option(
    "--step",
    "steps",
    multiple=True,
    metavar="RATE:SECONDS",
    help="Rate, req/s, and for how long: step; repeatable.",
)
@click.option("--duration", type=DURATION, help="Length of the trace: all but step.")
@click.option("--period", type=DURATION, help="One day: diurnal. [default: the duration]")
@click.option(
    "--cv2",
    type=float,
    default=4.0,
    show_default=True,
    help="Squared variation of the gaps: burst.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the arrivals.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it here. [default: stdout]",
)
def trace(
    kind: str,
    rate: float | None,
    low: float | None,
    high: float | None,
    steps: tuple[str, ...],
    duration: float | None,
    period: float | None,
    cv2: float,
    seed: int,
    out: Path | None,
) -> None:
    """Write a trace of the KIND for `conch perf replay`: one column of seconds.

    \b
    Example:
      conch perf trace burst --rate 100 --cv2 8 --duration 60s --out burst.csv
      conch perf trace step --step 60:10s --step 240:20s --step 60:10s > step.csv
    """
    from perf import trace_files, traces

    def need(name: str, value: float | None) -> float:
        if value is None:
            raise click.UsageError(f"a {kind} trace needs {name}.")
        return value

    made: Trace
    if kind == "step":
        made = traces.steps(step_levels(steps), seed=seed)
    else:
        length_s = need("--duration", duration)
        if kind == "constant":
            made = traces.constant(need("--rate", rate), length_s)
        elif kind == "poisson":
            made = traces.poisson(need("--rate", rate), length_s, seed=seed)
        elif kind == "burst":
            made = traces.burst(need("--rate", rate), length_s, cv2=cv2, seed=seed)
        elif kind == "ramp":
            made = traces.ramp(need("--from", low), need("--to", high), length_s, seed=seed)
        else:
            made = traces.diurnal(
                need("--from", low),
                need("--to", high),
                length_s,
                period_s=period or length_s,
                seed=seed,
            )
    if out is None:
        echo(trace_files.to_csv(made), nl=False)
        return
    trace_files.save_csv(made, out)
    echo(f"Wrote {made.count} arrivals to {out}. Next: conch perf replay MODEL {out}", err=True)


def step_levels(texts: tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    """(rate_rps, seconds) from ``RATE:SECONDS``; the seconds may carry a unit.

    Raises:
        ConfigError: when a text is not of that form.
    """
    levels = []
    for text in texts:
        rate, _, length = text.partition(":")
        try:
            levels.append((float(rate), parse_duration(length)))
        except ValueError:
            raise ConfigError(
                f"--step: {text!r}, must be RATE:SECONDS.", hint="Example: --step 60:10"
            ) from None
    return tuple(levels)
