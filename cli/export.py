"""``conch export``: run a recipe, show what it would do, show what it found."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from cli.export_engines import build_engines
from cli.export_progress import StageLines
from cli.options import json_option
from cli.output import echo, print_json, print_table, to_json
from conch.errors import ParityError, RepositoryError
from export import graph, pipeline, planning, report_table
from export import report as reports
from export.report import Report, Status
from export.store import Store

WORK_DIR = Path("runs/export")
PAGE_FILE = "report.html"

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


export.add_command(build_engines)


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
    "--until",
    type=click.Choice(graph.KINDS),
    default="publish",
    show_default=True,
    help="Stop after these stages.",
)
@click.option("--fresh", is_flag=True, help="Forget finished stages and build everything anew.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Stages to run at once. [default: what cores and memory bear]",
)
@click.option(
    "--dry-run", is_flag=True, help="Build and judge, show config.pbtxt; publish nothing."
)
@json_option
def run(
    recipe: Path,
    repository: Path,
    only: tuple[str, ...],
    until: str,
    fresh: bool,
    jobs: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build and judge the variants of RECIPE, and publish those that pass their gates.

    Finished stages are kept in runs/export/MODEL: a run that was stopped, or killed, goes on where
    it was. Exits with 6 when no variant passes. The report is runs/export/MODEL/report.html.

    \b
    Example:
      conch export run examples/minilm/recipe.yaml
      conch export run examples/minilm/recipe.yaml --only int8 --dry-run
      conch export run examples/minilm/recipe.yaml --json | jq '.variants[].reason'
    """
    with StageLines() as progress:
        found = pipeline.run(
            recipe,
            repository=repository,
            work_dir=WORK_DIR,
            dry_run=dry_run,
            only=only,
            until=until,
            fresh=fresh,
            jobs=jobs,
            progress=progress,
        )
    if until not in ("measure", "publish"):
        echo(f"Stopped after {until}, as asked. Nothing was published.", err=True)
        return
    _show(found, as_json=as_json)
    if dry_run:
        for name, text in found.configs.items():
            echo(f"\n# {repository / name / 'config.pbtxt'} would be:\n{text}", err=as_json)
    if dry_run or until != "publish":
        echo("Nothing was published.", err=True)
    echo(f"Report: {_write_page(found)}", err=True)
    if not found.accepted:
        kept = any(variant.status is Status.KEPT for variant in found.variants)
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in found.variants)
        raise ParityError(
            f"export of {found.model}: 0 of {len(found.variants)} variants passed ({reasons}).",
            hint="Nothing was published. "
            + (
                "To serve the plain export, add a variant without search to the recipe."
                if kept
                else "Change the steps, or the gates if they are too strict."
            ),
        )
    if not dry_run and until == "publish":
        echo(f"Next: conch serve --repository {repository}", err=True)


@export.command()
@recipe_argument
@only_option
@json_option
def plan(recipe: Path, only: tuple[str, ...], as_json: bool) -> None:
    """What a run of RECIPE would do, and what is done already. Loads no model, changes nothing.

    \b
    Example:
      conch export plan examples/minilm/recipe.yaml
    """
    todo = planning.plan(recipe, only=only)
    store = Store(WORK_DIR / todo.recipe.model.name / planning.STAGES_FOLDER)
    stages = graph.stages(todo)
    done = [stage.key for stage in stages if store.get(stage.key) is not None]
    if as_json:
        print_json(planning.as_dict(todo, done))
        return
    for index, stage in enumerate(stages, start=1):
        cached = " (cached)" if stage.key in done else ""
        echo(f"[{index}/{len(stages)}] {stage.label}{cached}")
    for variant in todo.variants:
        gates = ", ".join(todo.recipe.gates_of(variant).labels) or "none"
        steps = " → ".join(variant.labels) or "as it is"
        echo(f"{todo.recipe.published_name(variant)}: {steps}; gates: {gates}")
    echo(f"{len(done)} of {len(stages)} stages are cached; then measure and publish.")
    echo(f"Next: conch export run {recipe}", err=True)


@export.command()
@recipe_argument
@json_option
def report(recipe: Path, as_json: bool) -> None:
    """What the last run of RECIPE found: a table, and a page with plots.

    \b
    Example:
      conch export report examples/minilm/recipe.yaml
    """
    model = planning.plan(recipe).recipe.model.name
    found = reports.load(WORK_DIR / model / pipeline.REPORT_FILE, recipe=str(recipe))
    _show(found, as_json=as_json)
    echo(f"Page: {_write_page(found)}", err=True)


@export.command()
@recipe_argument
@click.option("--unused", is_flag=True, help="Only stages that RECIPE does not name as it is now.")
def clean(recipe: Path, unused: bool) -> None:
    """Remove what runs of RECIPE keep in runs/export: stages, reports. Not what is published.

    \b
    Example:
      conch export clean examples/minilm/recipe.yaml
      conch export clean examples/minilm/recipe.yaml --unused
    """
    todo = planning.plan(recipe)
    folder = WORK_DIR / todo.recipe.model.name
    store = Store(folder / planning.STAGES_FOLDER)
    try:
        with store.lock():
            if unused:
                freed = store.remove_others({stage.key for stage in graph.stages(todo)})
            else:
                freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                for path in folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path != store.lock_path:
                        path.unlink()
    except OSError as error:
        raise RepositoryError(
            f"clean of {folder}: {error.strerror or error} ({error.filename}).",
            hint="Mend the permissions, then run it again.",
        ) from error
    echo(f"Removed {'unused stages in ' if unused else ''}{folder}: {freed / 1e6:.1f} MB.")


def _write_page(found: Report) -> Path:
    """The report as a page beside its JSON; gives its path."""
    from export import report_html

    path = WORK_DIR / found.model / PAGE_FILE
    try:
        path.write_text(report_html.render(found), encoding="utf-8")
    except OSError as error:
        raise RepositoryError(
            f"report page {path}: {error.strerror or error}.",
            hint="Free some space or mend the permissions; report.json beside it is whole.",
        ) from error
    return path


def _show(found: Report, *, as_json: bool) -> None:
    """The report on stdout."""
    if as_json:
        echo(to_json(found.as_dict()))
        return
    print_table(report_table.table(found))
    for line in (*found.warnings, found.verified):
        if line:
            echo(line, err=True)
    cached = sum(stage.cached for stage in found.stages)
    echo(
        f"{found.total_seconds:.0f} s, {cached} of {len(found.stages)} stages cached; latency on "
        f"{found.threads} threads, ratios against {found.baseline}, paired.",
        err=True,
    )
