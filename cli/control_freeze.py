"""``conch control pause`` and ``resume``: the freeze switch."""

from __future__ import annotations

import math
import time
from pathlib import Path

import click

from cli.output import echo
from cli.repository_option import open_repository, repository_option
from conch.errors import ConfigError
from conch.units import DURATION
from control import freeze


@click.command()
@click.argument("model", required=False)
@click.option("--for", "for_s", type=DURATION, help="For this long. [default: until resumed]")
@repository_option
def pause(model: str | None, for_s: float | None, repository: Path | None) -> None:
    """Freeze MODEL, or every model: the loop looks and decides nothing until it is resumed.

    A change that is in flight is finished. A running loop obeys from its next tick on.

    \b
    Example:
      conch control pause minilm_int8 --for 10m
    """
    if for_s is not None and for_s <= 0:
        raise click.BadParameter(f"{for_s:g} s, must be above 0.", param_hint="--for")
    opened = open_repository(repository)
    if model is not None:
        opened.config_path(model)
    until_s = freeze.pause(opened, model, for_s=for_s, now_s=time.time())
    what = model or "every model"
    echo(f"Frozen: {what}, {until(until_s)}.")
    echo(f"Next: conch control resume{f' {model}' if model else ''}", err=True)


@click.command()
@click.argument("model", required=False)
@repository_option
def resume(model: str | None, repository: Path | None) -> None:
    """End the freeze of MODEL, or all freezes.

    \b
    Example:
      conch control resume minilm_int8
    """
    opened = open_repository(repository)
    now_s = time.time()
    ended = freeze.resume(opened, model, now_s=now_s)
    left = None if model is None else freeze.read(opened).of(model, now_s=now_s)
    if left is not None:
        raise ConfigError(
            f"resume {model}: every model is frozen, {until(left)}.",
            hint="End that with `conch control resume`.",
        )
    what = model or "every model"
    echo(f"Resumed: {what}." if ended else f"Not frozen: {what}.")
    echo("Next: conch control status", err=True)


def until(until_s: float) -> str:
    """An end for people."""
    if math.isinf(until_s):
        return "until it is resumed"
    return time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(until_s))
