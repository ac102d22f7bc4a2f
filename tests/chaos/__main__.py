"""``python -m tests.chaos``: attack a real server and its controller, by a seed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from conch.errors import ConchError
from tests.chaos import report
from tests.chaos.fault import Step
from tests.chaos.faults import KINDS
from tests.chaos.plan import plan
from tests.chaos.run import Outcome, run


@click.command()
@click.option("--seed", type=int, help="Of the plan and the load. [default: by the clock]")
@click.option("--minutes", type=click.FloatRange(0.1, 600), default=30.0, show_default=True)
@click.option("--only", default="", metavar="FAULT,...", help="Draw from these faults.")
@click.option("--steps", default="", metavar="N or A-B", help="Only these steps of the plan.")
@click.option("--fail-fast", is_flag=True, help="End at the first broken promise.")
@click.option("--keep", is_flag=True, help="Leave the folder with the logs.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all of it here.")
@click.option("--list", "list_only", is_flag=True, help="Print the faults and end.")
@click.option("--plan", "plan_only", is_flag=True, help="Print the plan and end.")
def main(
    seed: int | None,
    minutes: float,
    only: str,
    steps: str,
    fail_fast: bool,
    keep: bool,
    json_path: Path | None,
    list_only: bool,
    plan_only: bool,
) -> None:
    """A real `conch serve` and `conch control run` under load, and faults by chance.

    After each fault the promises are checked; one that is broken is printed with the logs' ends
    and the command that replays it. Exits with 1 when any was.
    """
    if list_only:
        for name, kind in KINDS.items():
            click.echo(f"{name:25} {(kind.__doc__ or '').splitlines()[0]}")
        return
    seed = int(time.time()) % 100_000 if seed is None else seed
    try:
        chosen = plan(seed, minutes * 60, only=[name for name in only.split(",") if name])
    except ConchError as error:
        raise click.UsageError(str(error)) from error
    first, last = _bounds(steps, len(chosen))
    chosen = tuple(step for step in chosen if first <= step.number <= last)
    for step in chosen:
        click.echo(f"{step.number:3} at {step.at_s:6.1f} s  {step.fault}")
    if plan_only:
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell ignores SIGINT for us
        signal.signal(number, signal.default_int_handler)
    click.echo(f"seed {seed}, {len(chosen)} faults, load average {os.getloadavg()[0]:.1f}")
    begun_s = time.monotonic()
    outcomes = run(
        _from_now(chosen),
        seed=seed,
        seconds=minutes * 60,
        fail_fast=fail_fast,
        keep=keep,
        note=lambda text: click.echo(f"    {text}"),
        told=_teller(seed, minutes, only),
    )
    _tell_all(outcomes, seed, minutes, begun_s, json_path)


def _teller(seed: int, minutes: float, only: str) -> Callable[[Outcome], None]:
    """Prints each outcome, and what it broke."""

    def told(outcome: Outcome) -> None:
        click.echo(report.line(outcome))
        if outcome.broken:
            click.echo(report.failure(outcome, seed=seed, minutes=minutes, only=only))
        sys.stdout.flush()

    return told


def _tell_all(
    outcomes: list[Outcome], seed: int, minutes: float, begun_s: float, json_path: Path | None
) -> None:
    """The table, the file, and the exit code."""
    click.echo("")
    click.echo(report.table(outcomes))
    click.echo(
        f"seed {seed}, {(time.monotonic() - begun_s) / 60:.1f} minutes, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    if json_path is not None:
        data = report.as_json(outcomes, seed=seed, minutes=minutes)
        json_path.write_text(json.dumps(data, indent=1) + "\n")
    if any(outcome.broken for outcome in outcomes):
        sys.exit(1)


def _bounds(steps: str, count: int) -> tuple[int, int]:
    """The first and the last step."""
    if not steps:
        return 1, count
    first, _, last = steps.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise click.UsageError(f"--steps: {steps!r}, must be N or A-B.") from None


def _from_now(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps with their times counted from the first one's."""
    if not steps:
        return steps
    shift_s = steps[0].at_s - 5.0
    return tuple(replace(step, at_s=step.at_s - shift_s) for step in steps)


if __name__ == "__main__":
    main()
