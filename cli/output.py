"""How commands print data on stdout: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where rich would assume 80 and cut cells."""


def print_table(table: Table) -> None:
    """The table, as wide as the terminal, or wide enough where there is none."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, highlight=False).print(table)


def print_json(data: dict[str, Any]) -> None:
    """One object, with the schema's version first."""
    click.echo(json.dumps({"schema": 1, **data}, indent=2))
