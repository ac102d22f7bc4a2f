"""``conch control rules``: who can decide, with which options, and where each rule comes from."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from typing import Any

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from control.core.rules import GRIDS, RULES, SOURCES, rule_named


@click.command("rules")
@click.argument("rule", required=False)
@json_option
def rules(rule: str | None, as_json: bool) -> None:
    """Who can decide: Conch's own rule and those that others use, or all about one RULE.

    A policy names its rule: `rule: knative-kpa`, and its options in `rule_options`.

    \b
    Example:
      conch control rules
      conch control rules knative-kpa
    """
    names = list(RULES) if rule is None else [rule_named(rule).name]
    rows = [_row(name) for name in names]
    if as_json:
        print_json({"rules": rows})
        return
    if rule is not None:
        _print_one(rows[0])
        return
    table = Table("rule", "what it does", "options", "from")
    for row in rows:
        options = " ".join(f"{name}={value}" for name, value in row["options"].items())
        table.add_row(row["name"], row["summary"], options or "-", row["source"])
    print_table(table)
    echo("Next: conch control rules RULE", err=True)


def _row(name: str) -> dict[str, Any]:
    """One rule as JSON types."""
    kind: Any = RULES[name]
    text = inspect.getdoc(kind) or ""
    return {
        "name": name,
        "summary": text.splitlines()[0],
        "options": {f.name: _plain(f.default) for f in fields(kind) if f.name != "name"},
        "tuning": {option: list(values) for option, values in GRIDS.get(name, {}).items()},
        "source": SOURCES[name],
        "text": inspect.cleandoc(sys.modules[kind.__module__].__doc__ or ""),
        "option_text": text.partition("Attributes:\n")[2],
    }


def _plain(default: Any) -> float | int | None:
    """The default as a number; None where an option has none."""
    return default if isinstance(default, int | float) else None


def _print_one(row: dict[str, Any]) -> None:
    """All about one rule for people."""
    echo(f"{row['name']}: {row['summary']}\n\n{row['text']}\n")
    if row["options"]:
        echo(f"Options:\n{row['option_text'].rstrip()}\n")
        echo("Defaults:")
        for name, value in row["options"].items():
            tried = row["tuning"].get(name)
            values = f"   (worth trying: {', '.join(f'{v:g}' for v in tried)})" if tried else ""
            echo(f"    {name}: {'-' if value is None else value}{values}")
        echo("")
    echo(f"Source: {row['source']}")
