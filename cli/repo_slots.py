"""``conch repo slots``: models ask for a slot of their server, or no more."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from cli.options import json_option
from cli.output import echo, print_json
from cli.repo_history import change_of, sole_hand, write_and_load
from cli.repository_option import open_repository, repository_option
from serving import model_config
from serving import slots as serving_slots
from serving.repository import Repository


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--off", is_flag=True, help="Ask for none any more.")
@click.option("--dry-run", is_flag=True, help="Show the diff; change nothing.")
@repository_option
@json_option
def slots(
    models: tuple[str, ...], off: bool, dry_run: bool, repository: Path | None, as_json: bool
) -> None:
    """Let each instance of MODELS execute only while it holds a slot of `conch serve --slots`.

    Written into config.pbtxt (instance_group, rate_limiter), and loaded where a local server has
    the model: all its instances are made anew, which waits for what is queued. A server without
    slots ignores it. Refused while a control loop runs, as only one may write.

    \b
    Example:
      conch repo slots resnet bert
      conch repo slots resnet --off
    """
    opened = open_repository(repository)
    rows = [_slotted(opened, name, off=off, dry_run=dry_run) for name in models]
    if as_json:
        print_json({"dry_run": dry_run, "models": rows})
        return
    for row in rows:
        echo(row["diff"] or f"{row['model']}: nothing to change.\n", nl=False)
        if row["diff"] and not dry_run:
            state = "in force" if row["loaded"] else "on disk; no local server has it loaded"
            echo(f"{opened.config_path(row['model'])} is {state}.", err=True)
    if dry_run:
        echo("Nothing was changed.", err=True)


def _slotted(repository: Repository, model: str, *, off: bool, dry_run: bool) -> dict[str, Any]:
    """What became of one model."""
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(repository.lock(model))
            sole_hand(repository, model, stack)
        before = repository.read_config(model)
        if off:
            after = serving_slots.without_slots(before)
        else:
            serving_slots.require_no_calls(repository, model)
            after = serving_slots.with_slots(before)
        change = change_of(before, after, model)
        row = {"model": model, "slots": not off, "diff": change["diff"], "loaded": False}
        if change["diff"] and not dry_run:
            text = model_config.to_text(after)
            reason = "asks for no slot" if off else "asks for a slot"
            row["loaded"] = write_and_load(repository, model, text, reason=reason)
        return row
