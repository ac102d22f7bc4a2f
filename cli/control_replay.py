"""``conch control replay``: decide a journal again, by the same rule or by another."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from cli.repository_option import open_repository, repository_option
from conch.errors import ConchError, ConfigError
from control import policy_file, session
from control.core.policy import Policy
from control.core.rules import rule_named
from control.core.rules.rule import Rule
from control.journal import codec, explain, replay
from control.journal.reader import Run
from control.journal.replay import Replayed
from control.journal.writer import Journal
from control.policy_file import PolicyFile

_ROWS = 20


class ReplayDiffers(ConchError):
    """A journal that does not replay to its own decisions."""


@click.command("replay")
@click.argument("journal", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--model", metavar="MODEL", help="Only this model. [default: all]")
@click.option("--run", "number", type=int, help="Only this run. [default: all]")
@click.option(
    "--rule",
    metavar="RULE[:KEY=VALUE,...]",
    help="Who is to decide instead: see `conch control rules`.",
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="By which policy to decide instead; its rules count where --rule says none.",
)
@repository_option
@json_option
def replay_(
    journal: Path | None,
    model: str | None,
    number: int | None,
    rule: str | None,
    policy: Path | None,
    repository: Path | None,
    as_json: bool,
) -> None:
    """Decide every look of JOURNAL again: the same, or what another rule would have done.

    Without --rule and --policy every decision must come out the same, bit by bit; exits with 1 and
    shows the first that does not. With one of them it shows where the decisions differ, on the
    observations as they were under the original decisions.

    \b
    Example:
      conch control replay
      conch control replay --model minilm_int8 --rule hpa-utilisation:target=0.6
    """
    other = None if rule is None else parse_rule(rule)
    typed = None if policy is None else policy_file.load(policy)
    path = journal or session.journal_path(open_repository(repository))
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    with Journal(path, read_only=True) as opened:
        for run in _runs(opened.runs(), number):
            for name in run.policies:
                if model is not None and name != model:
                    continue
                try:
                    by, bounds = _by(run, name, other, typed)
                except ConfigError as error:  # one rule that is gone must not hide the rest
                    skipped.append(error.message)
                    continue
                own = by.name == run.rules[name][0]
                done = replay.replay(opened.records(run.id, name), by, bounds, own=own)
                rows.append({"run": run.id, "model": name, "rule": by.name, "replayed": done})
    _require_some(rows, skipped, path, model)
    exact = other is None and typed is None
    if as_json:
        print_json({"exact": exact, "skipped": skipped, "runs": [_plain(row) for row in rows]})
    else:
        _print(rows, skipped, exact=exact)
    if exact:
        _require_equal(rows)


def parse_rule(text: str) -> Rule:
    """``NAME`` or ``NAME:key=value,key=value``.

    Raises:
        ConfigError: for a rule, an option or a value that is not allowed.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                f"--rule {text}: {part!r}, must be KEY=VALUE.",
                hint="Example: --rule hpa-utilisation:target=0.6",
            )
        options[key.strip()] = value.strip()
    return rule_named(name, options)


def _runs(runs: list[Run], number: int | None) -> list[Run]:
    """The runs that are meant."""
    chosen = [run for run in runs if number is None or run.id == number]
    if not chosen:
        known = ", ".join(str(run.id) for run in runs) or "none"
        raise ConfigError(f"--run {number}: not in the journal; it has: {known}.")
    return chosen


def _by(run: Run, model: str, other: Rule | None, typed: PolicyFile | None) -> tuple[Rule, Policy]:
    """Who decides now, and by what."""
    if typed is not None:
        bounds = typed.policy_of(model, cores=run.policies[model].cores)
        return other or typed.rule_of(model), bounds
    if other is not None:
        return other, run.policies[model]
    return replay.rule_of(run, model)


def _require_some(
    rows: list[dict[str, Any]], skipped: list[str], path: Path, model: str | None
) -> None:
    """Refuse a journal in which nothing can be replayed."""
    if not any(row["replayed"].looks for row in rows):
        of = f" of {model}" if model else ""
        why = f" ({skipped[0]})" if skipped else ""
        raise ConfigError(
            f"replay {path}: no look{of} can be replayed{why}.",
            hint="What an earlier version wrote, or what was pruned without a checkpoint, cannot.",
        )


def _require_equal(rows: list[dict[str, Any]]) -> None:
    """Fail with the first decision that did not come out the same."""
    for row in rows:
        if row["replayed"].differences:
            first = row["replayed"].differences[0]
            what = replay.differing(first.original, first.replayed)
            parts = [f"{key} was {a}, is {b}" for key, (a, b) in list(what.items())[:3]]
            raise ReplayDiffers(
                f"replay of {row['model']}: tick {first.original.tick_id} of run {row['run']} "
                f"decides otherwise: {'; '.join(parts)}.",
                hint="Another version of Conch decided then, or the journal was changed.",
            )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """One run of one model as JSON types."""
    done: Replayed = row["replayed"]
    data = {key: value for key, value in asdict(done).items() if key != "differences"}
    differences = [
        {"id": d.id, "original": codec.plain(d.original), "replayed": codec.plain(d.replayed)}
        for d in done.differences
    ]
    return {**{k: v for k, v in row.items() if k != "replayed"}, **data, "differences": differences}


def _print(rows: list[dict[str, Any]], skipped: list[str], *, exact: bool) -> None:
    """The counts, and the first decisions that differ."""
    columns = ["run", "model", "rule", "looks", "equal"]
    if not exact:
        columns += ["same settings", "instance s then", "instance s now"]
    table = Table(*columns)
    for row in rows:
        done: Replayed = row["replayed"]
        cells = [str(row["run"]), row["model"], row["rule"], str(done.looks), str(done.equal)]
        if not exact:
            cells += [
                str(done.same_settings),
                f"{done.original_instance_s:.0f}",
                f"{done.replayed_instance_s:.0f}",
            ]
        table.add_row(*cells)
    print_table(table)
    forgotten = sum(row["replayed"].forgotten for row in rows)
    if forgotten:
        echo(f"{forgotten} looks have no known beginning: it was pruned.", err=True)
    for line in skipped:
        echo(f"Skipped: {line}", err=True)
    if not exact:
        _print_differences(rows)


def _print_differences(rows: list[dict[str, Any]]) -> None:
    """The decisions that want something else."""
    table = Table("time", "model", "tick", "decided then", "would decide now")
    shown = total = 0
    for row in rows:
        for found in row["replayed"].differences:
            then, now = found.original, found.replayed
            if then.desired == now.desired:
                continue
            total += 1
            if shown < _ROWS:
                shown += 1
                at = time.strftime("%d %H:%M:%S", time.localtime(then.at_s))
                table.add_row(
                    at,
                    row["model"],
                    then.tick_id,
                    f"{explain.describe(then.desired)} [{then.reason.name}]",
                    f"{explain.describe(now.desired)} [{now.reason.name}]",
                )
    if not total:
        echo("It would have wanted the same settings at every look.")
        return
    print_table(table)
    if total > shown:
        echo(f"... and {total - shown} more; --json has them.", err=True)
    echo(
        "The observations are those under the original decisions: what it would have done to the "
        "load's latency is not in them.",
        err=True,
    )
