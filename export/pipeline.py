"""Run a recipe: build every variant, judge it against the original, publish what passes.

One variant's failure is its own: it is reported, and the others go on. What concerns all of them
(the recipe, the original model, its plain export) ends the run. Nothing is published before
every variant has been judged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conch.errors import ConchError, ParityError, RepositoryError
from export import judge, planning, preflight, publish
from export import source as sources
from export.data import RecipeData
from export.planning import Plan
from export.progress import Progress, Silent, Stages
from export.recipe import Variant
from export.report import Report, VariantReport
from export.steps import Artifact, Context, Form, StepSpec
from serving import model_config
from serving.repository import Repository

if TYPE_CHECKING:
    import torch

REPORT_FILE = "report.json"


@dataclass(slots=True, kw_only=True)
class _Entry:
    """One variant on its way through the run."""

    variant: Variant
    artifact: Artifact | None = None
    quality: judge.Quality = field(default_factory=judge.Quality)
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    recipe_path: Path,
    *,
    repository: Path | None,
    work_dir: Path,
    dry_run: bool = False,
    only: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Run the recipe and save the report to ``work_dir/<model>/report.json``.

    Args:
        recipe_path: the recipe.
        repository: where accepted variants go (made when missing); None publishes nothing.
        work_dir: holds a folder for each model, with its built files and its report.
        dry_run: do all but publish.
        only: names of variants; all of them when empty.
        progress: told of each stage.

    Returns:
        The report, also when no variant was accepted.

    Raises:
        ConfigError: the recipe, the code it names or the original model is not usable.
        ParityError: the plain export of the original is not valid or not equal to it.
        RepositoryError: the disk refused; what was published before is whole and stays.
    """
    todo = planning.plan(recipe_path, only=only)
    target = None if dry_run or repository is None else _open(repository)
    folder = work_dir / todo.recipe.model.name
    try:
        return _Run(todo, recipe_path, folder, progress or Silent()).finish(target, dry_run)
    except OSError as error:
        raise RepositoryError(
            f"export of {todo.recipe.model.name}: {error.strerror or error} "
            f"({error.filename or folder}).",
            hint="Free some space or mend the permissions, then run it again.",
        ) from error


class _Run:
    """The state of one run: files by the steps that made them, and what was found so far."""

    def __init__(self, todo: Plan, recipe_path: Path, folder: Path, progress: Progress) -> None:
        """Load nothing yet."""
        self.plan = todo
        self.recipe = todo.recipe
        self.recipe_path = recipe_path
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.source = sources.Source(recipe_path.parent)
        self.data = RecipeData(self.recipe, self.source)
        self.entries = [_Entry(variant=variant) for variant in todo.variants]
        self._stages = Stages(progress, len(todo.stages))
        self._labels: Iterator[str] = iter(todo.stages)
        self._artifacts: dict[str, Artifact] = {}
        self._start = time.perf_counter()
        self.original: torch.nn.Module

    def finish(self, repository: Repository | None, dry_run: bool) -> Report:
        """All stages, in order; the report is saved even when publishing fails."""
        self._load()
        baseline = self._build_all()
        self._compare()
        reports = self._measure(baseline)
        failure: RepositoryError | None = None
        with self._stage("publish", self.seconds):
            for index, (entry, found) in enumerate(zip(self.entries, reports, strict=True)):
                try:
                    reports[index] = self._publish(found, entry.artifact, repository, dry_run)
                except RepositoryError as error:
                    reports[index] = replace(found, reason=f"not published: {error.message}")
                    failure = failure or error
        report = self._report(reports, repository, dry_run)
        report.save(self.folder / REPORT_FILE)
        if failure is not None:
            raise failure
        return report

    def _stage(self, key: str, seconds: dict[str, float]) -> AbstractContextManager[list[str]]:
        """The next stage of the plan."""
        return self._stages.stage(next(self._labels), key=key, seconds=seconds)

    def _load(self) -> None:
        """The original module, and proof that it can be batched and exported."""
        recipe = self.recipe
        with self._stage("load", self.seconds):
            self.original = sources.load_module(self.source, recipe.model, seed=recipe.seed)
            preflight.check(self.original, recipe, self.data.examples)

    def _build_all(self) -> Artifact:
        """Every variant's file, as far as it can be made; gives the plain export."""
        with self._stage("to_onnx", self.seconds):
            baseline = self._build(self.plan.baseline)
        for entry in self.entries:
            if self.plan.is_baseline(entry.variant):
                entry.artifact = baseline
                continue
            with self._stage("build", entry.seconds) as notes:
                try:
                    entry.artifact = self._build(entry.variant.steps)
                except ConchError as error:
                    entry.error = str(error)
                    notes.append("failed")
        return baseline

    def _build(self, steps: Sequence[StepSpec]) -> Artifact:
        """What the steps give; steps that were run before in this run are not run again."""
        artifact = Artifact(form=Form.TORCH, module=self.original)
        key = ""
        for spec in steps:
            key += f"{spec.model_dump_json()}\n"
            if key not in self._artifacts:
                context = Context(
                    recipe=self.recipe,
                    folder=_emptied(self.folder / f"{len(self._artifacts)}_{spec.step.name}"),
                    original=self.original,
                    examples=self.data.examples,
                    calibration=self.data.calibration,
                )
                self._artifacts[key] = spec.step.run(artifact, context)
            artifact = self._artifacts[key]
        return artifact

    def _compare(self) -> None:
        """Each variant's quality; a variant that cannot be compared is refused."""
        with self._stage("compare", self.seconds) as notes:
            comparing = judge.Judge(self.original, self.recipe, self.data, self.source)
            for entry in self.entries:
                if entry.artifact is None:
                    continue
                try:
                    entry.quality = comparing.quality(entry.variant, entry.artifact.file)
                except ParityError as error:
                    entry.error = str(error)
                    notes.append(f"{entry.variant.name} failed")

    def _measure(self, baseline: Artifact) -> list[VariantReport]:
        """Size and latency of what could be compared; then the verdicts."""
        sound = {
            e.variant.name: e.artifact.file for e in self.entries if e.artifact and not e.error
        }
        files = {self.plan.baseline_name: baseline.file, **sound}
        with self._stage("measure", self.seconds):
            costs = judge.costs(
                files, baseline=self.plan.baseline_name, recipe=self.recipe, data=self.data
            )
        return [self._judged(entry, costs) for entry in self.entries]

    def _judged(self, entry: _Entry, costs: Mapping[str, judge.Cost]) -> VariantReport:
        """One variant's figures and verdicts, or why there are none."""
        variant = entry.variant
        if entry.error:
            found = VariantReport(
                name=variant.name,
                published_name=self.recipe.published_name(variant),
                steps=variant.labels,
                reason=entry.error,
            )
        else:
            found = judge.report(
                self.recipe,
                variant,
                quality=entry.quality,
                cost=costs[variant.name],
                is_baseline=self.plan.is_baseline(variant),
            )
        return replace(found, seconds=entry.seconds)

    def _publish(
        self,
        report: VariantReport,
        artifact: Artifact | None,
        repository: Repository | None,
        dry_run: bool,
    ) -> VariantReport:
        """Put an accepted variant into the repository, or say why not."""
        if not report.accepted or artifact is None:
            return report
        if repository is None:
            why = "dry run" if dry_run else "no repository given"
            return replace(report, reason=f"{report.reason}; not published ({why})")
        version = repository.publish(
            report.published_name,
            publish.triton_config(self.recipe, report.published_name),
            {artifact.file.name: artifact.file},
            publish.lineage(
                self.recipe,
                recipe_sha256=self._recipe_sha256(),
                report=report,
                artifact=artifact,
            ),
        )
        return replace(
            report,
            published_version=version,
            reason=f"{report.reason}; published as {report.published_name} version {version}",
        )

    def _report(
        self, reports: Sequence[VariantReport], repository: Repository | None, dry_run: bool
    ) -> Report:
        """The whole run's report."""
        return Report(
            model=self.recipe.model.name,
            recipe=str(self.recipe_path),
            recipe_sha256=self._recipe_sha256(),
            baseline=self.plan.baseline_name,
            threads=judge.threads_of(self.recipe),
            seconds=self.seconds,
            total_seconds=time.perf_counter() - self._start,
            dry_run=dry_run,
            repository=str(repository.root) if repository else None,
            variants=tuple(reports),
            configs={
                report.published_name: model_config.to_text(
                    publish.triton_config(self.recipe, report.published_name)
                )
                for report in reports
                if report.accepted
            },
        )

    def _recipe_sha256(self) -> str:
        """Hash of the recipe and of the code files beside it that it names."""
        return publish.files_sha256([self.recipe_path, *self.source.files(self.recipe.references)])


def _emptied(folder: Path) -> Path:
    """The folder, made when missing, without the files of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    return folder


def _open(root: Path) -> Repository:
    """The repository, made when missing; refused now rather than after a minute of work.

    Raises:
        RepositoryError: when the folder cannot be made or written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryError(
            f"model repository: {root} cannot be made ({error.strerror}).",
            hint="Give another --repository, or mend the permissions.",
        ) from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise RepositoryError(
            f"model repository: {root} is not writable.",
            hint="Give another --repository, or mend the permissions.",
        )
    return Repository(root)
