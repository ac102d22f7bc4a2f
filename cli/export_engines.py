"""``conch export build-engines``: TensorRT engines for the models of a repository."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from conch.units import DURATION
from export.tensorrt import builder
from export.tensorrt.builder import EngineError
from serving.repository import Repository


@click.command("build-engines")
@click.argument("repository", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "models", multiple=True, help="Only this one; repeatable.")
@click.option("--dry-run", is_flag=True, help="List what would be built; needs no GPU.")
@click.option(
    "--timeout",
    type=DURATION,
    default="1h",
    show_default=True,
    help="How long one engine may take.",
)
@json_option
def build_engines(
    repository: Path, models: tuple[str, ...], dry_run: bool, timeout: float, as_json: bool
) -> None:
    """Build the TensorRT engines that REPOSITORY lacks, for this machine's GPU and TensorRT.

    An engine runs only on the kind of GPU and the TensorRT that it was built by: run this on the
    host that serves it. Engines that fit are left alone. Exits with 1 when one is not built.

    \b
    Example:
      conch export build-engines model_repository --dry-run
      conch export build-engines model_repository
      conch export build-engines model_repository --model minilm_trt_int8 --json
    """
    opened = Repository(repository)
    found = builder.run(
        opened,
        models,
        dry_run=dry_run,
        timeout_s=timeout,
        started=lambda one, reason: echo(
            f"{one.model} version {one.version}: {reason}, building ...", err=True
        ),
    )
    if as_json:
        print_json({"repository": str(opened.root), "engines": [asdict(one) for one in found]})
    elif found:
        table = Table("model", "version", "state", "engine MB", "reason")
        for one in found:
            size = f"{one.engine_bytes / 1e6:.2f}" if one.engine_bytes is not None else ""
            table.add_row(one.model, str(one.version), one.state, size, one.reason)
        print_table(table)
    states = Counter(one.state for one in found)
    failed = [one for one in found if one.state == "failed"]
    if failed:
        raise EngineError(
            f"{opened.root}: {len(failed)} of {len(found)} engines were not built "
            f"({failed[0].model}: {failed[0].reason}).",
            hint="What was built stays. Mend the rest, then run it again.",
        )
    if not found:
        echo("No model here was published for TensorRT: nothing to build.", err=True)
    elif dry_run:
        echo(f"{states['to build']} to build; nothing was changed.", err=True)
    else:
        echo(f"{states['built']} built, {states['current']} were up to date.", err=True)
