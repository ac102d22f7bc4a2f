"""``docs/reference``: pages made from the code, so that they cannot drift.

Write them anew with ``python -m cli.reference docs/reference``; tests/docs/test_reference.py
compares them with a fresh generation.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import annotated_types
import click
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from cli import main as command_line
from cli.output import echo
from control.core.reasons import Clamp, Reason
from control.journal import advice
from control.policy_file import Budget, ModelPolicy, PolicyFile

NOTE = "<!-- Made by `python -m cli.reference docs/reference`; edit {source}, not this page. -->"
WIDTH = 80

CLI_HEAD = """\
Data goes to stdout, everything else to stderr.
Commands that print data take `--json`; most that write take `--dry-run`.
Exit codes: [exit-codes.md](exit-codes.md)."""

POLICY_HEAD = """\
A policy is a YAML file that says what each model is held to, and what may be done for it.
`conch control run POLICY` follows it: [Run the control loop](../how-to/run-control.md).
Every key has a default, and unknown keys are errors.
Durations are written as `500ms`, `2s`, `1.5m` or `1h`; a bare number is seconds.

```yaml
version: 1
tick: 1s
defaults:
  slo: 100ms
models:
  minilm_int8:
    slo: 50ms
    max_instances: 2
```"""

REASONS_HEAD = """\
Each decision has one reason, and names what the guard changed.
`conch control explain MODEL` shows both with every number; the log and the journal carry the names.
How they come about: [the control loop](../explanation/control-loop.md)."""

E = TypeVar("E", bound=enum.Enum)


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ("conch",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path, the groups too, in the order of ``--help``."""
    group = command_line.root if group is None else group
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def help_text(path: tuple[str, ...], command: click.Command) -> str:
    """What ``--help`` prints, at a fixed width."""
    settings = {**command_line.root.context_settings, "terminal_width": WIDTH, "color": False}
    context: click.Context | None = None
    for name in path[:-1]:
        context = click.Context(click.Group(name), parent=context, info_name=name, **settings)
    here = click.Context(command, parent=context, info_name=path[-1], **settings)
    return command.get_help(here)


def cli_page() -> str:
    """Every ``--help``."""
    sections = [
        f"## `{' '.join(path)}`\n\n```\n{help_text(path, command)}\n```"
        for path, command in commands()
    ]
    note = NOTE.format(source="the docstrings and options in `cli/`")
    return _page("# Command line", note, CLI_HEAD, *sections)


def policy_page() -> str:
    """Every key of a policy."""
    return _page(
        "# Policy reference",
        NOTE.format(source="the descriptions in `control/policy_file.py`"),
        POLICY_HEAD,
        "## The file",
        _fields(PolicyFile),
        "## The budget",
        "What the models share, under `budget`.",
        _fields(Budget),
        "## A model, or the defaults",
        "A model's section under `models` is laid over `defaults`.",
        _fields(ModelPolicy),
    )


def reasons_page() -> str:
    """Every reason of a decision and every clamp of the guard."""
    return _page(
        "# Reasons and clamps",
        NOTE.format(source="`control/core/reasons.py` and `control/journal/advice.py`"),
        REASONS_HEAD,
        "## Reasons",
        _rows(Reason, advice.REASONS),
        "## Clamps",
        "What the guard did to a proposal.",
        _rows(Clamp, advice.CLAMPS),
    )


def recipe_page() -> str:
    """Every key of a recipe; ``export`` makes the page itself."""
    from export import reference as recipe_reference

    return recipe_reference.markdown()


PAGES = {
    "cli.md": cli_page,
    "policy.md": policy_page,
    "reasons.md": reasons_page,
    "recipe.md": recipe_page,
}


def _page(*parts: str) -> str:
    """Parts with an empty line between them."""
    return "\n\n".join(parts) + "\n"


def _fields(section: type[BaseModel]) -> str:
    """A table of a section's keys."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        lines.append(f"| `{key}` | {_type(field)} | {_default(field)} | {field.description} |")
    return "\n".join(lines)


def _type(field: FieldInfo) -> str:
    """A type in a reader's words, with its bounds."""
    if _is_duration(field):
        return "duration"
    kinds: dict[object, str] = {float: "number", bool: "flag", str | None: "text"}
    kinds |= {bool | str | None: "flag or text"}
    kinds |= {int: "whole number", int | None: "whole number"}
    bounds = []
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Ge):
            bounds.append(f"≥ {limit.ge}")
        elif isinstance(limit, annotated_types.Lt):
            bounds.append(f"< {limit.lt}")
        elif isinstance(limit, annotated_types.Le):
            bounds.append(f"≤ {limit.le}")
    return " ".join([kinds.get(field.annotation, "section"), *bounds])


def _default(field: FieldInfo) -> str:
    """A default as YAML would have it."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if _is_duration(field):
        return f"`{value:g}s`" if value >= 1 else f"`{value * 1e3:g}ms`"
    return f"`{value}`"


def _is_duration(field: FieldInfo) -> bool:
    """Whether it is a ``conch.units.Duration``."""
    return any(isinstance(mark, BeforeValidator) for mark in field.metadata)


def _rows(kind: type[E], todo: Mapping[E, str]) -> str:
    """A table of an enum's members."""
    lines = ["| name | meaning | what to do |", "|---|---|---|"]
    lines += [f"| `{m.name}` | {m.value} | {todo[m]} |" for m in kind]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Write every page into ``folder``."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
        echo(f"Wrote {folder / name}", err=True)


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    write(Path(sys.argv[1]))
