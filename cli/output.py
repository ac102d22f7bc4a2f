"""How commands print: all of it through here, so that a terminal obeys no data.

Lines and cells are printed as they are, never read as markup, and control characters in them are
written out (``conch.terminal``).
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from conch.terminal import clean

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where rich would assume 80 and cut cells."""


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """A line on stdout, or on stderr, with what a terminal would obey written out."""
    click.echo(clean(text), err=err, nl=nl)


def rewrite(text: object) -> None:
    """The line on stderr that is written again in place."""
    click.echo(f"\r{clean(text)}", err=True, nl=False)


def print_table(table: Table) -> None:
    """The table, as wide as the terminal, or wide enough where there is none."""
    from conch.tables import clean_table, literal_console  # rich: not for `conch --help`

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    literal_console(width=width).print(clean_table(table))


def print_json(data: dict[str, Any]) -> None:
    """One object, with the schema's version first."""
    echo(to_json({"schema": 1, **data}))


def to_json(data: object, *, indent: int | None = 2) -> str:
    """The data as JSON that every program reads: what is not finite is null."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same value with None for nan and inf, which JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
