"""The work of each kind of stage, done in a worker process. Each gives what the store keeps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export import judge, preflight, task
from export import original as originals
from export.data import RecipeData, sample_ids
from export.gates import TaskGate
from export.recipe import Recipe
from export.source import Source
from export.steps import Artifact, Context, Form, StepSpec
from export.steps.base import Original, Tell
from export.store import Store, facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all stages of a run share, as values that travel to a worker.

    Attributes:
        recipe_path: the recipe's file; code is looked up beside it.
        recipe: what it says.
        stages: the store's folder.
        load_key: the stage that holds the original.
    """

    recipe_path: Path
    recipe: Recipe
    stages: Path
    load_key: str


class Bench:
    """What a worker keeps between stages of one run: the user's code, data and original.

    Attributes:
        folder: where the files of the stage at work go; empty at its start.
        scratch: the stage's checkpoints, as a kill left them.
        tell: takes the stage's progress.
    """

    folder: Path
    scratch: Path

    def __init__(self, job: Job, tell: Tell) -> None:
        self.job = job
        self.recipe = job.recipe
        self.tell = tell
        self.store = Store(job.stages)
        self.source = Source(job.recipe_path.resolve().parent)
        self.data = RecipeData(job.recipe, self.source)

    @functools.cached_property
    def original(self) -> Original:
        """The original, as the load stage kept it."""
        loaded = self.store.get(self.job.load_key)
        if loaded is not None and loaded.artifact.path is not None:
            return originals.stored(self.recipe, loaded.artifact)
        return originals.load(self.recipe, self.source)

    def artifact(self, key: str) -> Artifact:
        """A finished stage's result."""
        found = self.store.get(key)
        if found is None:
            raise OSError(f"stage {key[:24]} is gone from {self.job.stages}")
        return found.artifact


class Task(Protocol):
    """One stage's work; it travels to a worker, so its fields are plain values."""

    def run(self, bench: Bench) -> Artifact:
        """The result; files go into ``bench.folder``, checkpoints into ``bench.scratch``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load the original and prove that it can be batched, compared and served."""

    def run(self, bench: Bench) -> Artifact:
        """The original, with a summary of it and of its data."""
        original = originals.load(bench.recipe, bench.source)
        bench.original = original
        preflight.check(original, bench.recipe, bench.data.examples)
        recipe = bench.recipe
        found: dict[str, Any] = {"summary": preflight.summary(original, recipe)}
        found["samples"] = {
            part: sample_ids(getattr(bench.data, part)())
            for part in ("calibration", "evaluation")
            if getattr(recipe.data, part) is not None
        }
        found["warnings"] = bench.data.leaks().warnings
        return originals.keep(original, bench.folder, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run one step on what another stage made."""

    parent: str
    spec: StepSpec

    def run(self, bench: Bench) -> Artifact:
        """The transformed model."""
        context = Context(
            recipe=bench.recipe,
            folder=bench.folder,
            scratch=bench.scratch,
            original=bench.original,
            data=bench.data,
            source=bench.source,
            tell=bench.tell,
        )
        artifact = bench.artifact(self.parent)
        if self.parent == bench.job.load_key:  # its facts are about the original, not the variant
            artifact = dataclasses.replace(artifact, facts={})
        if artifact.form is Form.TORCH:  # read once, and the step's own to change
            artifact = dataclasses.replace(artifact, module=artifact.torch_module)
        return self.spec.step.run(artifact, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The original's outputs on the evaluation data, and its scores where a metric acts."""

    gates: tuple[TaskGate, ...]

    def run(self, bench: Bench) -> Artifact:
        """The outputs as a file; scores as facts."""
        batches = judge.evaluation_batches(bench.recipe, bench.data)
        arrays = {}
        for index, batch in enumerate(batches):
            bench.tell(index, len(batches))
            for name, value in bench.original.run(batch).items():
                arrays[f"{index}/{name}"] = value
        path = bench.folder / "outputs.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        scores = {
            gate.metric: task.play(
                bench.source, gate.metric, bench.original.run, seed=bench.recipe.seed
            ).as_facts()
            for gate in self.gates
            if gate.through != "outputs"
        }
        kept = facts(count=len(batches), scores=scores)
        return dataclasses.replace(kept, path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """A variant's outputs and task score against the original's."""

    parent: str
    reference: str
    variant: str
    gate: TaskGate | None
    output: str | None

    def run(self, bench: Bench) -> Artifact:
        """The agreement and the task scores as facts."""
        kept = bench.artifact(self.reference)
        found = judge.quality(
            bench,
            bench.artifact(self.parent),
            reference=_outputs(kept),
            original=kept.facts["scores"].get(self.gate.metric, {}) if self.gate else {},
            variant=self.variant,
            gate=self.gate,
            output=self.output,
        )
        return facts(quality=dataclasses.asdict(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Size and latency of all variants, paired in this one process."""

    files: Mapping[str, str]
    baseline: str

    def run(self, bench: Bench) -> Artifact:
        """The costs as facts, by variant."""
        artifacts = {name: bench.artifact(key) for name, key in self.files.items()}
        found = judge.costs(
            artifacts, baseline=self.baseline, recipe=bench.recipe, data=bench.data, tell=bench.tell
        )
        return facts(costs={name: dataclasses.asdict(cost) for name, cost in found.items()})


def _outputs(reference: Artifact) -> list[dict[str, NDArray[Any]]]:
    """The original's outputs by batch, as ``Reference`` kept them."""
    batches: list[dict[str, NDArray[Any]]] = [{} for _ in range(reference.facts["count"])]
    with np.load(reference.file, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            batches[int(index)][name] = arrays[key]
    return batches
