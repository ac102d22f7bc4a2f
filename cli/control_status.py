"""``conch control explain`` and ``status``: what the journal says of every model."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.table import Table

from cli.control_freeze import until
from cli.options import json_option
from cli.output import echo, print_table, to_json
from cli.repository_option import open_repository, repository_option
from conch.errors import ConfigError
from control import freeze, session
from control.journal import codec, explain
from control.journal.writer import Journal


@click.command("explain")
@click.argument("model")
@click.option("--tick", "tick_id", metavar="ID", help="The decision of this tick.")
@click.option(
    "--at",
    "at_s",
    type=float,
    metavar="SECONDS",
    help="The decision that was in force then, in seconds since the epoch.",
)
@repository_option
@json_option
def explain_(
    model: str, tick_id: str | None, at_s: float | None, repository: Path | None, as_json: bool
) -> None:
    """Why the last decision for MODEL is what it is.

    The last decision that changed something is shown too, when the newest one only holds.

    \b
    Example:
      conch control explain minilm_int8
      conch control explain minilm_int8 --tick 3f9c2a
    """
    if tick_id is not None and at_s is not None:
        raise click.UsageError("--tick and --at: give one of them.")
    repo = open_repository(repository)
    repo.config_path(model)
    with Journal(session.journal_path(repo), read_only=True) as journal:
        if tick_id is not None:
            newest = journal.entry(model, tick_id)
        else:
            newest = next(journal.entries(model, last=1, until_s=at_s), None)
        changed = None if tick_id is not None else journal.last_change(model, until_s=at_s)
    if newest is None:
        raise ConfigError(
            f"explain {model}: the journal has no such decision for it.",
            hint="Run `conch control once --dry-run` or `conch control run` first.",
        )
    if as_json:
        data = {
            "schema": 1,
            "model": model,
            "decision": codec.plain(newest.decision),
            "last_change": codec.plain(changed.decision) if changed else None,
        }
        echo(to_json(data))
        return
    now_s = time.time()
    for entry, title in ((newest, ""), (changed, "\nThe last change:\n")):
        if entry is None or (title and entry.id == newest.id):
            continue
        if title:
            echo(title)
        lines = explain.lines(model, entry.decision, now_s=now_s, seen=entry.observation)
        echo("\n".join(lines))


@click.command()
@repository_option
@json_option
def status(repository: Path | None, as_json: bool) -> None:
    """Desired, applied and observed for every model under control.

    \b
    Example:
      conch control status --json
    """
    repo = open_repository(repository)
    now_s = time.time()
    with Journal(session.journal_path(repo), read_only=True) as journal:
        latest = [entry for m in journal.models() for entry in journal.entries(m, last=1)]
        actions = journal.actions()
        rules = {run.id: run.rules for run in journal.runs()}
    frozen = freeze.read(repo)
    rows = [
        {
            "model": entry.model,
            "mode": entry.mode,
            "frozen": _frozen(frozen, entry.model, now_s),
            "edited": entry.observation.edited,
            "rule": rules.get(entry.run, {}).get(entry.model, ("unknown", {}))[0],
            "age_s": round(now_s - entry.decision.at_s, 1),
            "reason": entry.decision.reason.name,
            "desired": codec.plain(entry.decision.desired),
            "applied": codec.plain(entry.decision.applied),
            "offered_rps": round(entry.decision.terms.get("fast_rps", 0.0), 1),
            "kept_by_refusing": explain.kept_by_refusing(entry.decision, entry.observation),
            "actions": sum(1 for action in actions if action.model == entry.model),
            "unfinished_actions": sum(
                1 for a in actions if a.model == entry.model and a.ended_at_s is None
            ),
        }
        for entry in latest
    ]
    if as_json:
        echo(to_json({"schema": 1, "models": rows}))
        return
    columns = ("model", "mode", "rule", "age s", "load req/s", "applied", "desired", "reason")
    table = Table(*columns, "actions", "in flight")
    for entry, row in zip(latest, rows, strict=True):
        table.add_row(
            entry.model,
            f"{entry.mode}, frozen {row['frozen']}" if row["frozen"] else entry.mode,
            str(row["rule"]),
            str(row["age_s"]),
            str(row["offered_rps"]),
            explain.describe(entry.decision.applied),
            explain.describe(entry.decision.desired),
            entry.decision.reason.name,
            str(row["actions"]),
            str(row["unfinished_actions"]),
        )
    print_table(table)
    for entry in latest:
        if entry.observation.edited:
            echo(explain.edited(entry.model), err=True)
        kept = explain.kept_by_refusing(entry.decision, entry.observation)
        if kept is not None:
            echo(f"{entry.model}: {explain.refusing(kept)}", err=True)
    echo("Next: conch control explain MODEL", err=True)


def _frozen(frozen: freeze.Freezes, model: str, now_s: float) -> str | None:
    """Until when the model is frozen, for people; None when it is not."""
    until_s = frozen.of(model, now_s=now_s)
    return None if until_s is None else until(until_s)
