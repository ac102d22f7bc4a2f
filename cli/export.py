"""``conch export``: run a recipe, show what it would do, show what it found."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from cli.options import json_option
from cli.output import print_json, print_table
from conch.errors import ParityError
from export import pipeline, planning
from export import report as reports
from export.report import Report

WORK_DIR = Path("runs/export")

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
only_option = click.option(
    "--only", metavar="VARIANT", multiple=True, help="Only this variant; repeatable."
)


@click.group()
def export() -> None:
    """Shrink a PyTorch model, verify every variant on real data, publish what passes.

    \b
    Example:
      conch export plan examples/minilm/recipe.yaml
      conch export run examples/minilm/recipe.yaml
    """


@export.command()
@recipe_argument
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="Where accepted variants go; made when missing.",
)
@only_option
@click.option(
    "--dry-run", is_flag=True, help="Build and judge, show config.pbtxt; publish nothing."
)
@json_option
def run(
    recipe: Path, repository: Path, only: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Build and judge the variants of RECIPE, and publish those that pass their gates.

    Exits with 6 when no variant passes. The report is kept in runs/export/MODEL/report.json.

    \b
    Example:
      conch export run examples/minilm/recipe.yaml
      conch export run examples/minilm/recipe.yaml --only int8 --dry-run
      conch export run examples/minilm/recipe.yaml --json | jq '.variants[].reason'
    """
    found = pipeline.run(
        recipe,
        repository=repository,
        work_dir=WORK_DIR,
        dry_run=dry_run,
        only=only,
        progress=StageLines(),
    )
    _show(found, as_json=as_json)
    if dry_run:
        for name, text in found.configs.items():
            click.echo(f"\n# {repository / name / 'config.pbtxt'} would be:\n{text}", err=as_json)
        click.echo("Nothing was published.", err=True)
    click.echo(f"Report: {_report_path(found.model)}", err=True)
    if not found.accepted:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in found.variants)
        raise ParityError(
            f"export of {found.model}: 0 of {len(found.variants)} variants passed ({reasons}).",
            hint="Nothing was published. Change the steps, or the gates if they are too strict.",
        )
    if not dry_run:
        click.echo(f"Next: conch serve --repository {repository}", err=True)


@export.command()
@recipe_argument
@only_option
@json_option
def plan(recipe: Path, only: tuple[str, ...], as_json: bool) -> None:
    """What a run of RECIPE would do. Loads no model and changes nothing.

    \b
    Example:
      conch export plan examples/minilm/recipe.yaml
    """
    todo = planning.plan(recipe, only=only)
    if as_json:
        print_json(todo.as_dict())
        return
    for index, stage in enumerate(todo.stages, start=1):
        click.echo(f"[{index}/{len(todo.stages)}] {stage}")
    for row in todo.as_dict()["variants"]:
        gates = ", ".join(row["gates"]) or "none"
        click.echo(f"{row['published_name']}: {' → '.join(row['steps'])}; gates: {gates}")
    click.echo(f"Next: conch export run {recipe}", err=True)


@export.command()
@recipe_argument
@json_option
def report(recipe: Path, as_json: bool) -> None:
    """What the last run of RECIPE found.

    \b
    Example:
      conch export report examples/minilm/recipe.yaml
    """
    model = planning.plan(recipe).recipe.model.name
    _show(reports.load(_report_path(model)), as_json=as_json)


class StageLines:
    """Stages on stderr: a spinner on a terminal, plain lines otherwise."""

    def __init__(self) -> None:
        """Write to stderr; stdout is for data."""
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None

    def started(self, index: int, total: int, stage: str) -> None:
        """Say what begins."""
        line = f"\\[{index}/{total}] {stage}"
        if self._console.is_terminal:
            self._status = self._console.status(f"{line} ...")
            self._status.start()
        else:
            self._console.print(f"{line} ...", soft_wrap=True)

    def finished(self, index: int, total: int, stage: str, seconds: float, note: str) -> None:
        """Say how long it took."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        tail = f" ({note})" if note else ""
        self._console.print(f"\\[{index}/{total}] {stage}: {seconds:.1f} s{tail}", soft_wrap=True)


def _show(found: Report, *, as_json: bool) -> None:
    """The report on stdout."""
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    print_table(reports.table(found))
    click.echo(
        f"{found.total_seconds:.0f} s; latency on {found.threads} threads, "
        f"ratios against {found.baseline}, paired.",
        err=True,
    )


def _report_path(model: str) -> Path:
    """Where ``pipeline.run`` keeps the model's report."""
    return WORK_DIR / model / pipeline.REPORT_FILE
