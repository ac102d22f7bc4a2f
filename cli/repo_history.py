"""``conch repo diff|history|rollback``: revisions of a model's config."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from cli.repository_option import open_repository, repository_option
from conch.errors import ApplyRejected, ConchError, ConfigError, RepositoryError
from control.act.baseline import Baseline, is_settled
from control.act.knobs import settings_of
from control.journal import explain
from control.lease import sole_writer
from serving import hazards, model_config, slots
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.revisions import Revision, sha256
from serving.runtime import endpoint as endpoints
from serving.runtime.endpoint import Endpoint


@click.command()
@click.argument("model")
@click.option(
    "--from", "old", type=int, metavar="REVISION", help="Old revision. [default: the one before]"
)
@click.option(
    "--to", "new", type=int, metavar="REVISION", help="New revision. [default: what is on disk]"
)
@repository_option
@json_option
def diff(
    model: str, old: int | None, new: int | None, repository: Path | None, as_json: bool
) -> None:
    """What changed in MODEL's config, and what such a change costs Triton.

    \b
    Example:
      conch repo diff minilm_int8
      conch repo diff minilm_int8 --from 1 --to 4
    """
    opened = open_repository(repository)
    after = opened.read_config(model) if new is None else _revision(opened, model, new)
    if old is None:
        old = _before(opened, model, model_config.to_text(after))
    before = _revision(opened, model, old)
    change = change_of(before, after, model)
    if as_json:
        print_json({"model": model, "from": old, "to": new, **change})
        return
    echo(change["diff"] or "No difference.\n", nl=False)
    echo(f"A load of this change costs: {change['reload']}.", err=True)


@click.command()
@click.argument("model")
@repository_option
@json_option
def history(model: str, repository: Path | None, as_json: bool) -> None:
    """Every config that MODEL ever had: when, why, and by which tick of the control loop.

    \b
    Example:
      conch repo history minilm_int8
    """
    opened = open_repository(repository)
    current = opened.config_text(model)
    found = [_revision_row(entry, current) for entry in opened.revisions(model).all()]
    if as_json:
        print_json({"model": model, "revisions": found})
        return
    table = Table("revision", "at (UTC)", "reason", "tick", "on disk")
    for row in found:
        at = row["at"][:19].replace("T", " ")
        table.add_row(
            str(row["number"]), at, row["reason"], row["tick_id"], "yes" if row["on_disk"] else ""
        )
    print_table(table)
    echo(f"Next: conch repo rollback {model} --to REVISION --dry-run", err=True)


@click.command()
@click.argument("model")
@click.option(
    "--to",
    "number",
    type=int,
    required=True,
    metavar="REVISION",
    help="The one to bring back; `conch repo history` lists them.",
)
@click.option("--dry-run", is_flag=True, help="Show the diff and its cost; change nothing.")
@repository_option
@json_option
def rollback(
    model: str, number: int, dry_run: bool, repository: Path | None, as_json: bool
) -> None:
    """Bring back an earlier config of MODEL, byte for byte, and load it where a local server runs.

    A config that Triton refuses is undone. Refused while a control loop runs, as only one may
    write; but not for a config that was edited by hand and is not in force: the loop leaves that
    alone.

    \b
    Example:
      conch repo rollback minilm_int8 --to 3 --dry-run
      conch repo rollback minilm_int8 --to 3
    """
    opened = open_repository(repository)
    wanted = _revision(opened, model, number)
    change = change_of(_on_disk(opened, model), wanted, model)
    loaded = False
    if not dry_run:
        with ExitStack() as stack:
            stack.enter_context(opened.lock(model))
            if not _is_edited(opened, model):
                sole_hand(opened, model, stack)
            text = opened.revisions(model).text(number)
            reason = f"rolled back by hand to revision {number}"
            loaded = write_and_load(opened, model, text, reason=reason)
    if as_json:
        facts = {"model": model, "to": number, "dry_run": dry_run, "loaded": loaded}
        print_json({**facts, **change})
    else:
        echo(change["diff"] or "No difference.\n", nl=False)
    echo(f"A load of this change costs: {change['reload']}.", err=True)
    if dry_run:
        echo("Nothing was changed.", err=True)
    else:
        state = "in force" if loaded else "on disk; no local server has it loaded"
        echo(f"{opened.config_path(model)}: revision {number} is {state}.", err=True)


@click.command()
@click.argument("model")
@repository_option
@json_option
def load(model: str, repository: Path | None, as_json: bool) -> None:
    """Load MODEL's config as it is on disk: an edit of yours comes into force.

    Goes while a control loop runs. What Triton refuses stays on disk; the old config serves on.

    \b
    Example:
      conch repo load minilm_int8
    """
    opened = open_repository(repository)
    config = opened.read_config(model)
    server = _server_of(opened)
    if server is None:
        raise ConfigError(
            f"load of {model}: no local server reads {opened.root}.",
            hint="Start one with `conch serve`: it loads what is on disk.",
        )
    _require(opened, model, server)
    with opened.lock(model), TritonClient(server.grpc_url, admin_key=server.admin_key) as client:
        client.load(model)
        shown = client.config(model)
        opened.write_text(model, opened.config_text(model), reason="loaded by hand")
    in_force = is_settled(config, shown)
    if as_json:
        print_json({"model": model, "loaded": True, "in_force": in_force})
    if not in_force:
        raise ApplyRejected(
            f"load of {model}: Triton took it, but serves {explain.describe(settings_of(shown))}.",
            hint=f"`conch repo show {model}` and the server's log say more.",
        )
    echo(f"{opened.config_path(model)} is in force.", err=True)


def _is_edited(repository: Repository, model: str) -> bool:
    """Whether the config on disk is a person's and not in force: the loop then leaves it alone."""
    server = _server_of(repository)
    if server is None:
        return False
    with TritonClient(server.grpc_url, admin_key=server.admin_key) as client:
        if client.index().get(model) != "READY":
            return False
        return Baseline(repository).of(model, client.config(model)).edited


def sole_hand(repository: Repository, model: str, stack: ExitStack) -> None:
    """Be the one that may write, or say how to become it."""
    try:
        stack.enter_context(sole_writer(repository))
    except RepositoryError as error:
        raise RepositoryError(
            error.message, hint=f"Stop it first; or edit {model}'s config.pbtxt and load it."
        ) from error


def _on_disk(repository: Repository, model: str) -> ModelConfig:
    """The config on disk; an empty one for a file that does not parse: all of it is to go."""
    repository.config_path(model)
    try:
        return repository.read_config(model)
    except (ConfigError, RepositoryError):
        return ModelConfig(name=model)


def write_and_load(repository: Repository, model: str, text: str, *, reason: str) -> bool:
    """Write a config, and load it where a local server has the model; gives whether it did.

    Raises:
        ConchError: when Triton refuses it or does not answer; the old text is on disk again.
    """
    previous = repository.config_text(model)
    repository.write_text(model, text, reason=reason)
    server = _server_of(repository)
    if server is None:
        return False
    with TritonClient(server.grpc_url, admin_key=server.admin_key) as client:
        if client.index().get(model) != "READY":
            return False
        try:
            _require(repository, model, server)
            client.load(model)
        except ConchError as error:
            repository.write_text(model, previous, reason=f"rollback refused: {error.message}")
            raise
    return True


def _require(repository: Repository, model: str, server: Endpoint) -> None:
    """Refuse what must not reach the server.

    Raises:
        ConfigError: with the reason.
    """
    hazards.require(repository, model)
    if server.slots is not None:
        slots.require(repository.read_config(model), server.slots)


def _server_of(repository: Repository) -> Endpoint | None:
    """The local server that reads this repository, if one runs."""
    return next(iter(endpoints.serving(repository.root, endpoints.running())), None)


def _revision(repository: Repository, model: str, number: int) -> ModelConfig:
    """The parsed config of a revision."""
    repository.config_path(model)
    text = repository.revisions(model).text(number)
    return model_config.parse(text, source=f"{model}, revision {number}")


def _before(repository: Repository, model: str, text: str) -> int:
    """The newest revision with another text than this one.

    Raises:
        ConfigError: when there is none.
    """
    log = repository.revisions(model)
    for entry in reversed(log.all()):
        if log.text(entry.number) != text:
            return entry.number
    raise ConfigError(
        f"{model}: no earlier revision with another config.",
        hint=f"See `conch repo history {model}`.",
    )


def change_of(before: ModelConfig, after: ModelConfig, model: str) -> dict[str, Any]:
    """A change as its diff and what Triton does on a load of it."""
    return {
        "diff": model_config.diff(before, after, name=f"{model}/config.pbtxt"),
        "reload": model_config.reload_kind(before, after).value,
    }


def _revision_row(entry: Revision, current: str) -> dict[str, Any]:
    """A revision as JSON values."""
    return {**dataclasses.asdict(entry), "on_disk": entry.sha256 == sha256(current)}
