"""Run a recipe: build every variant, judge it against the original, publish what passes.

One variant's failure is its own: it is reported, and the others go on. What concerns all of them
(the recipe, the original model, its plain export) ends the run. Every stage is kept under a content
key, so a run that was killed goes on where it was, and one without changes costs seconds. Nothing
is published before all variants are judged, and nothing half.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conch.errors import RepositoryError
from export import graph, judge, keys, manifest, planning, publisher, results
from export.engine import Engine, Outcome
from export.planning import Plan
from export.progress import Progress
from export.report import Report, StageReport, Status, VariantReport
from export.results import Judged
from export.store import Store
from export.tasks import Job
from export.worker import Pool, jobs_here
from serving import atomic

REPORT_FILE = "report.json"
MANIFEST_FILE = "manifest.json"


def run(
    recipe_path: Path,
    *,
    repository: Path | None,
    work_dir: Path,
    dry_run: bool = False,
    only: Sequence[str] = (),
    until: str = "publish",
    fresh: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the recipe and save the report to ``work_dir/<model>/report.json``.

    Args:
        recipe_path: the recipe.
        repository: where accepted variants go (made when missing); None publishes nothing.
        work_dir: holds a folder for each model, with its stages, its report and its manifest.
        dry_run: do all but publish.
        only: names of variants; all of them when empty.
        until: the last kind of stage to run, one of ``graph.KINDS``.
        fresh: forget finished stages first.
        jobs: stages to run at once; by default as many as cores and memory bear.
        progress: told of each stage.

    Returns:
        The report, also when no variant was accepted.

    Raises:
        ConfigError: the recipe, the code it names or the original model is not usable.
        ParityError: the plain export of the original is not valid or not equal to it.
        RepositoryError: the disk refused; what was published before is whole and stays.
    """
    todo = planning.plan(recipe_path, only=only)
    folder = work_dir / todo.recipe.model.name
    publishes = not dry_run and until == "publish" and repository is not None
    target = publisher.open_repository(repository) if publishes and repository else None
    store = Store(folder / planning.STAGES_FOLDER)
    publishing = publisher.Publisher(todo, target, store, dry_run=dry_run)
    publishing.check()
    try:
        with store.lock():
            if fresh and store.root.is_dir():
                shutil.rmtree(store.root)
            with _Run(todo, folder, jobs=jobs, progress=progress, until=until) as running:
                return running.finish(publishing)
    except OSError as error:
        raise RepositoryError(
            f"export of {todo.recipe.model.name}: {error.strerror or error} "
            f"({error.filename or folder}).",
            hint="Free some space or mend the permissions, then run it again: it goes on where "
            "it was.",
        ) from error


class _Run:
    """One run: its workers and what was found so far."""

    def __init__(
        self,
        todo: Plan,
        folder: Path,
        *,
        jobs: int | None,
        progress: Progress | None,
        until: str,
    ) -> None:
        self.todo = todo
        self.folder = folder
        self._until = until
        self._start = time.perf_counter()
        self._stages = graph.stages(todo, until=until)
        store = Store(folder / planning.STAGES_FOLDER)
        job = Job(
            recipe_path=todo.recipe_path,
            recipe=todo.recipe,
            stages=store.root,
            load_key=todo.load_key,
        )
        self._pool = Pool(job, jobs=jobs_here(jobs), advance=self._advance)
        self._engine = Engine(store, self._pool, progress, total=len(self._stages) + 2)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.close(at_once=kind is not None)

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What became of each stage, by key."""
        return self._engine.outcomes

    def finish(self, publishing: publisher.Publisher) -> Report:
        """All stages, in order; the report is saved even when publishing fails."""
        todo = self.todo
        self._engine.run([self._stages[0]])
        self._raise(todo.load_key)
        self._engine.run(self._stages)
        for key in todo.baseline.keys:
            self._raise(key)
        if self._until in ("load", "build", "compare"):
            return self._report([], publishing, {})
        self._raise(todo.baseline.compare_key)
        found = self._judged(self._measured())
        pairs = [results.variant_report(todo, variant, found) for variant in todo.variants]
        reports = results.without_dominated(todo, [report for report, _ in pairs])
        chosen = {
            report.name: one
            for report, (_, one) in zip(reports, pairs, strict=True)
            if one.finished is not None and report.status is not Status.KEPT
        }
        self._save_manifest(chosen, publishing.recipe_sha256)
        published = publisher.Published(reports=reports)
        if self._until == "publish":
            with self._engine.phase("publish what passed") as notes:
                published = publishing.publish(reports, chosen)
                notes.append(published.verified or "nothing to publish")
        report = self._report(published.reports, publishing, chosen, published)
        report.save(self.folder / REPORT_FILE)
        if published.error is not None:
            raise published.error
        return report

    def _advance(self, key: str, done: int, total: int, note: str) -> None:
        """From a worker to the progress."""
        self._engine.advanced(key, done, total, note)

    def _raise(self, key: str) -> None:
        """A failure that concerns all variants ends the run."""
        if key in self.outcomes and (error := self.outcomes[key].error) is not None:
            raise error

    def _measured(self) -> Mapping[str, judge.Cost]:
        """Size and latency of what could be compared, the baseline among it."""
        ends = {
            chain.name: chain.end
            for chain in self.todo.all_chains
            if self.outcomes[chain.compare_key].error is None
        }
        stage = graph.measurement(self.todo, ends)
        self._engine.run([stage])
        self._raise(stage.key)
        finished = self.outcomes[stage.key].finished
        costs = finished.artifact.facts["costs"] if finished else {}
        return {name: judge.cost_from(entry) for name, entry in costs.items()}

    def _judged(self, costs: Mapping[str, judge.Cost]) -> dict[str, Judged]:
        """Every chain with its verdicts, by name."""
        return {
            chain.name: results.judged(self.todo, chain, self.outcomes, costs)
            for chain in self.todo.all_chains
        }

    def _save_manifest(self, chosen: Mapping[str, Judged], recipe_sha256: str) -> None:
        """The manifest; one of a partial run keeps what a run of the same recipe found before."""
        loaded = self.outcomes[self.todo.load_key].finished
        if loaded is None:
            raise AssertionError("the load stage has no result")
        built = {name: (one.chain, one.finished) for name, one in chosen.items() if one.finished}
        record = manifest.manifest(
            self.todo, loaded=loaded, chosen=built, recipe_sha256=recipe_sha256
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST_FILE
        if len(self.todo.variants) < len(self.todo.recipe.variants):
            record = manifest.merged(_read_json(path), record)
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        atomic.write(path, text.encode(), aside=self.folder, point="export.manifest")

    def _report(
        self,
        reports: Sequence[VariantReport],
        publishing: publisher.Publisher,
        chosen: Mapping[str, Judged],
        published: publisher.Published | None = None,
    ) -> Report:
        """The report of what was found so far."""
        todo, recipe = self.todo, self.todo.recipe
        loaded = self.outcomes[todo.load_key].finished
        if loaded is None:
            raise AssertionError("the load stage has no result")
        facts = loaded.artifact.facts
        task = recipe.gates.task or next(iter(todo.tasks), None)
        return Report(
            model=recipe.model.name,
            recipe=str(todo.recipe_path),
            recipe_sha256=publishing.recipe_sha256,
            baseline=todo.baseline.name,
            threads=judge.threads_of(recipe),
            seconds=self._seconds(),
            total_seconds=time.perf_counter() - self._start,
            dry_run=publishing.dry_run,
            repository=publishing.root,
            variants=tuple(self._with_seconds(report) for report in reports),
            configs=publishing.configs(reports, chosen),
            ensembles=published.ensembles if published else (),
            verified=published.verified if published else "",
            task=task.name if task else "",
            stages=tuple(
                StageReport(
                    name=outcome.stage.label,
                    variant=outcome.stage.variant,
                    seconds=outcome.finished.seconds if outcome.finished else 0.0,
                    cached=outcome.cached,
                )
                for outcome in self.outcomes.values()
            ),
            original=facts["summary"],
            warnings=(*facts.get("warnings", ()), *(published.remarks if published else ())),
            versions=keys.versions(),
            machine={**keys.machine(), "flags": keys.cpu_flags()},
            finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def _seconds(self) -> dict[str, float]:
        """Seconds of each kind of stage that was run now."""
        spent: dict[str, float] = {}
        for outcome in self.outcomes.values():
            if outcome.finished is not None and not outcome.cached:
                kind = outcome.stage.kind
                spent[kind] = spent.get(kind, 0.0) + outcome.finished.seconds
        return spent

    def _with_seconds(self, report: VariantReport) -> VariantReport:
        """The variant's report with what its stages took."""
        spent: dict[str, float] = {}
        for outcome in self.outcomes.values():
            if outcome.stage.variant == report.name and outcome.finished is not None:
                kind = outcome.stage.kind
                spent[kind] = spent.get(kind, 0.0) + outcome.finished.seconds
        return dataclasses.replace(report, seconds=spent)


def _read_json(path: Path) -> Any:
    """What the file holds; None when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
