"""``conch repo``: look into a model repository, compare revisions, undo a change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from google.protobuf import json_format
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from cli.repo_history import diff, history, load, rollback
from cli.repo_slots import slots
from cli.repository_option import open_repository, repository_option
from conch.errors import ConfigError
from export import numbering, ranking
from serving import check as checks
from serving import engines, model_config
from serving.check import Severity
from serving.model_config import ModelConfig
from serving.repository import Repository


@click.group()
def repo() -> None:
    """Look into a model repository; undo a change.

    \b
    Example:
      conch repo list
      conch repo history minilm_int8
      conch repo rollback minilm_int8 --to 3 --dry-run
    """


@repo.command("list")
@repository_option
@json_option
def list_(repository: Path | None, as_json: bool) -> None:
    """Every model with the settings that matter most.

    \b
    Example:
      conch repo list --json
    """
    opened = open_repository(repository)
    rows = [_row(opened, name) for name in opened.models()]
    if as_json:
        print_json({"repository": str(opened.root), "models": rows})
        return
    columns = ("model", "versions", "backend", "max batch", "delay µs", "instances", "size MB")
    table = Table(*columns)
    for row in rows:
        if "error" in row:
            table.add_row(row["model"], *["?"] * (len(columns) - 1))
            continue
        table.add_row(
            row["model"],
            ", ".join(_version(number, row) for number in row["versions"]) or "none",
            row["backend"],
            str(row["max_batch_size"]),
            str(row["max_queue_delay_us"]) if row["dynamic_batching"] else "no batching",
            str(row["instances"]),
            f"{row['size_bytes'] / 1e6:.2f}",
        )
    print_table(table)
    if any("error" in row for row in rows):
        echo("Some configs are broken: conch repo check", err=True)
    echo("Next: conch repo show MODEL", err=True)


@repo.command()
@click.argument("model")
@repository_option
@json_option
def show(model: str, repository: Path | None, as_json: bool) -> None:
    """The config of MODEL, where its newest version comes from, and the quality of its variants.

    \b
    Example:
      conch repo show minilm_int8
    """
    opened = open_repository(repository)
    config = opened.read_config(model)
    newest = max(opened.versions(model), default=0)
    lineage = opened.lineage(model, newest)
    variants = _variants(opened, config)
    if as_json:
        fields = json_format.MessageToDict(config, preserving_proto_field_name=True)
        print_json({"model": model, "config": fields, "lineage": lineage, "variants": variants})
        return
    echo(opened.config_text(model), nl=False)
    if lineage:
        echo(f"\n# version {newest}: {_origin(lineage)}")
    for one in variants if len(variants) > 1 else []:
        served = ", served" if one["served"] else ""
        echo(f"# version {one['version']}{served}: {one['variant']}; {one['told']}")


def _variants(repository: Repository, config: ModelConfig) -> list[dict[str, Any]]:
    """The newest version of each variant and its measured quality, the highest number first."""
    served = engines.served_versions(config, repository.versions(config.name))
    found = []
    for variant, number in numbering.newest(repository, config.name).items():
        lineage = repository.lineage(config.name, number)
        found.append(
            {
                "version": number,
                "variant": variant,
                "served": number in served,
                "quality": lineage.get("quality"),
                "told": ranking.words(lineage) or "quality not measured",
            }
        )
    return sorted(found, key=lambda one: -one["version"])


def _origin(lineage: dict[str, Any]) -> str:
    """Where a version comes from, as comment lines; anybody may have written it."""
    try:
        lines = [
            " → ".join(lineage.get("steps", [])),
            f"published {lineage.get('published_at', 'at an unknown time')}",
        ]
        for gate in lineage.get("gates", []):
            value, limit = gate["value"], gate["limit"]
            lines.append(f"{gate['gate']} = {value:.4g}, {gate['sense']} {limit:.4g}")
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return f"its lineage.json cannot be understood ({type(error).__name__}: {error})"
    return "\n# ".join(lines)


@repo.command()
@click.argument("models", nargs=-1)
@repository_option
@json_option
def check(models: tuple[str, ...], repository: Path | None, as_json: bool) -> None:
    """Find what is wrong with MODELS (all by default). Exits with 3 when there is a fault.

    \b
    Example:
      conch repo check
      conch repo check minilm_int8 --json
    """
    opened = open_repository(repository)
    findings = checks.check(opened, list(models))
    faults = [finding for finding in findings if finding.severity is Severity.FAULT]
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_json({"repository": str(opened.root), "findings": rows})
    else:
        for finding in findings:
            echo(f"{finding.severity}: {finding.model}: {finding.message}")
    if faults:
        raise ConfigError(
            f"{opened.root}: {len(faults)} faults in {len({f.model for f in faults})} models.",
            hint="Mend them, or bring an older config back: conch repo history MODEL",
        )
    count = len(models) or len(opened.models())
    echo(f"{count} models, no faults, {len(findings)} warnings.", err=True)


def _row(repository: Repository, name: str) -> dict[str, Any]:
    """One line of the list; a broken config does not hide the other models."""
    try:
        config = repository.read_config(name)
    except ConfigError as error:
        return {"model": name, "error": error.message}
    batching = model_config.batching(config)
    folders = [repository.root / name / str(v) for v in repository.versions(name)]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {
        "model": name,
        "versions": repository.versions(name),
        "variants": numbering.variants(repository, name),
        "unbuilt_versions": engines.unbuilt(repository, config),
        "backend": config.backend or config.platform,
        "max_batch_size": batching.max_batch_size,
        "dynamic_batching": batching.dynamic,
        "max_queue_delay_us": batching.max_queue_delay_us,
        "instances": model_config.instance_count(config),
        "size_bytes": sum(path.stat().st_size for path in files),
    }


def _version(number: int, row: dict[str, Any]) -> str:
    """A version, with its variant where there are several, or that its engine is to be built."""
    several = len(set(row["variants"].values())) > 1
    told = [row["variants"].get(number)] if several else []
    told += ["no engine"] if number in row["unbuilt_versions"] else []
    words = ", ".join(word for word in told if word)
    return f"{number} ({words})" if words else str(number)


for _command in (diff, history, load, rollback, slots):
    repo.add_command(_command)
