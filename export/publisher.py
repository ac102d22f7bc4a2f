"""Accepted variants into the repository: configs, a load test on a real Triton, then the files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conch.errors import ConchError, RepositoryError
from export import ensembles, numbering, publish, trial
from export.keys import digest, files_sha256, versions
from export.planning import Plan
from export.publish import Publication
from export.report import Status, VariantReport
from export.results import Judged
from export.store import Store, facts
from serving import model_config
from serving.repository import Repository
from serving.runtime.find import find


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What publishing came to.

    Attributes:
        reports: of all variants, with versions and reasons filled in.
        ensembles: names of the ensembles that were published.
        verified: what was loaded on a real Triton first, in a line.
        remarks: how versions are numbered, in lines.
        error: the first failure; the report is saved before it is raised.
    """

    reports: list[VariantReport]
    ensembles: tuple[str, ...] = ()
    verified: str = ""
    remarks: tuple[str, ...] = ()
    error: ConchError | None = None


class Publisher:
    """Publishes the variants of one run.

    Args:
        todo: the plan.
        repository: where they go; None publishes nothing.
        store: remembers which publications passed their load test.
        dry_run: whether nothing is to be published.
    """

    def __init__(
        self, todo: Plan, repository: Repository | None, store: Store, *, dry_run: bool
    ) -> None:
        self.todo = todo
        self.store = store
        self.dry_run = dry_run
        self.repository = repository
        self.recipe_sha256 = files_sha256([todo.recipe_path, *todo.files])

    @property
    def root(self) -> str | None:
        """The repository's folder; None for nowhere."""
        return str(self.repository.root) if self.repository else None

    def check(self) -> None:
        """Refuse now what would stop the publishing after all the work.

        Raises:
            ConfigError: a labels file or a tokenizer is missing or does not fit.
            TritonUnavailable: there is no Triton to try the models on.
        """
        names = {v.name: self.todo.recipe.published_name(v) for v in self.todo.variants}
        publish.variants(self.todo.recipe, self._folder, [])
        ensembles.publications(self.todo.recipe, self._folder, names)
        if self.repository is not None:
            find()

    def configs(
        self, reports: Sequence[VariantReport], chosen: Mapping[str, Judged]
    ) -> dict[str, str]:
        """Published name → ``config.pbtxt``, of all that was or would be published."""
        passed = [r for r in reports if r.status in (Status.PUBLISHED, Status.ACCEPTED)]
        return publish.configs(self._publications(passed, chosen))

    def publish(self, reports: Sequence[VariantReport], chosen: Mapping[str, Judged]) -> Published:
        """Publish the accepted variants, then the ensembles around them.

        A model that Triton does not load is refused, and nothing of it is published.
        """
        reports = [self._without(report) for report in reports]
        passed = [report for report in reports if report.status is Status.ACCEPTED]
        if self.repository is None or not passed:
            why = "dry run" if self.dry_run else "no repository given"
            noted = {r.name: dataclasses.replace(r, reason=f"{r.reason}; not published ({why})")
                     for r in passed}  # fmt: skip
            return Published(reports=[noted.get(report.name, report) for report in reports])
        models = self._publications(passed, chosen)
        numbers: dict[str, list[int]] = {}
        remarks: list[str] = []
        error: ConchError | None = None
        try:
            problems = self._problems(models)
        except ConchError as refused:  # no Triton, or one that does not start
            problems = {model.name: f"not published: {refused.message}" for model in models}
            error = refused
        for model in models:
            if missing := [name for name in model.needs if problems.get(name)]:
                problems.setdefault(model.name, f"needs {missing[0]}: {problems[missing[0]]}")
            if problems.get(model.name):
                continue
            try:
                numbers[model.name] = publish.put(self.repository, model)
                if model.together:
                    remarks += numbering.remarks(self.repository, model)
            except RepositoryError as refused:
                problems[model.name] = f"not published: {refused.message}"
                error = error or refused
        by_variant = {
            name: (model, index) for model in models for index, name in enumerate(model.variants)
        }
        found = [
            _told(report, *by_variant[report.name], problems, numbers)
            if report.name in by_variant
            else report
            for report in reports
        ]
        return Published(
            reports=found,
            ensembles=tuple(m.name for m in models if not m.variants and m.name in numbers),
            verified=_verified(models, problems),
            remarks=tuple(remarks),
            error=error,
        )

    def _problems(self, models: Sequence[Publication]) -> dict[str, str]:
        """What a real Triton does not load or answers wrongly, by name.

        All well is remembered for exactly these files and configs on this Triton.
        """
        if not any(model.loadable for model in models):
            return {}
        binary = find()
        key = digest(
            "load test", binary.version, str(binary.path), versions(),
            [
                (model.name, model_config.to_text(model.config),
                 model.ensemble.model_dump(mode="json") if model.ensemble else None,
                 [files_sha256(sorted(one.files.values())) for one in model.versions],
                 files_sha256(sorted(model.model_files.values())))
                for model in models
            ],
        )  # fmt: skip
        if self.store.get(key) is not None:
            return {}
        problems = trial.verify(models, self.todo.recipe)
        if not problems:
            folder, _ = self.store.begin(key)
            self.store.finish(key, facts(triton=binary.version), folder=folder, seconds=0.0)
        return problems

    @property
    def _folder(self) -> Path:
        """The recipe's."""
        return self.todo.recipe_path.resolve().parent

    def _without(self, report: VariantReport) -> VariantReport:
        """The report of a variant that the recipe builds for comparison only."""
        variant = next(v for v in self.todo.variants if v.name == report.name)
        if variant.publish or report.status is not Status.ACCEPTED:
            return report
        return dataclasses.replace(report, reason=f"{report.reason}; for comparison only")

    def _publications(
        self, passed: Sequence[VariantReport], chosen: Mapping[str, Judged]
    ) -> list[Publication]:
        """What to put into the repository, ensembles last."""
        recipe, folder = self.todo.recipe, self._folder
        accepted = []
        for report in passed:
            one = chosen[report.name]
            variant = next(v for v in self.todo.variants if v.name == report.name)
            if one.finished is None or not variant.publish:
                continue
            accepted.append(
                publish.Accepted(
                    variant=variant,
                    artifact=one.finished.artifact,
                    lineage=publish.lineage(
                        recipe,
                        recipe_sha256=self.recipe_sha256,
                        report=report,
                        artifact=one.finished.artifact,
                    ),
                )
            )
        models = publish.variants(recipe, folder, accepted)
        names = {variant: model.name for model in models for variant in model.variants}
        return [*models, *ensembles.publications(recipe, folder, names)]


def open_repository(root: Path) -> Repository:
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


def _told(
    report: VariantReport,
    model: Publication,
    index: int,
    problems: Mapping[str, str],
    numbers: Mapping[str, Sequence[int]],
) -> VariantReport:
    """The report with what became of the publication."""
    if problem := problems.get(model.name):
        return dataclasses.replace(report, status=Status.FAILED, accepted=False, reason=problem)
    number = numbers[model.name][index]
    loaded = "" if model.loadable else "; build its engine: conch export build-engines"
    return dataclasses.replace(
        report,
        status=Status.PUBLISHED,
        published_version=number,
        reason=f"{report.reason}; published as {model.name} version {number}{loaded}",
    )


def _verified(models: Sequence[Publication], problems: Mapping[str, str]) -> str:
    """What a real Triton has loaded."""
    loaded = [m.name for m in models if m.loadable and not problems.get(m.name)]
    left = [m.name for m in models if not m.loadable]
    told = f"loaded and asked on a real Triton: {', '.join(loaded)}" if loaded else ""
    unloaded = f"not loaded here (need a GPU): {', '.join(left)}" if left else ""
    return "; ".join(part for part in (told, unloaded) if part)
