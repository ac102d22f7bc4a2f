"""What is found about a variant, and the verdicts of its gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError, ParityError
from export import measure, parity
from export.data import RecipeData
from export.parity import Agreement, Verdict
from export.recipe import Gates, Recipe, Variant
from export.report import VariantReport
from export.session import Session, available_cores
from export.source import Source, call

if TYPE_CHECKING:
    import torch

Outputs = list[dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """The task metric of a variant and of the original; more is better."""

    variant: float
    original: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A variant against the original.

    Attributes:
        agreement: over the evaluation data; None without evaluation data.
        task: None without a task gate.
    """

    agreement: Agreement | None = None
    task: TaskScore | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Size and latency of a variant, and both as a ratio to the baseline's."""

    size_bytes: int
    size_ratio: float
    latency: measure.Latency


class Judge:
    """Compares variants with the original's outputs, which are computed once."""

    def __init__(
        self, original: torch.nn.Module, recipe: Recipe, data: RecipeData, source: Source
    ) -> None:
        """Run the original over the evaluation data, or over examples when there is none."""
        self._recipe = recipe
        self._source = source
        self._has_data = recipe.data.evaluation is not None
        example = {"batch": 2, **{name: axis.example for name, axis in recipe.model.axes.items()}}
        self._batches = data.evaluation() if self._has_data else [data.examples(example)]
        self._reference = [call(original, batch, recipe.model) for batch in self._batches]
        self._baselines: dict[str, float] = {}

    def quality(self, variant: Variant, path: Path) -> Quality:
        """The variant's outputs against the original's.

        Raises:
            ParityError: when the variant fails on the data, gives other shapes, or gives NaN.
            ConfigError: when the task metric raises or gives no number.
        """
        session = Session(path)
        outputs = [session.run(batch) for batch in self._batches]
        _check_finite(outputs, variant.name)
        gates = self._recipe.gates_of(variant)
        agreement = task = None
        if self._has_data:
            output = gates.fidelity.output if gates.fidelity else None
            try:
                agreement = parity.compare(self._reference, outputs, output=output)
            except ValueError as error:
                raise ParityError(
                    f"{variant.name}: {error}.", hint="A step changed the model's outputs."
                ) from error
        if gates.task is not None:
            task = TaskScore(
                variant=self._score(gates.task.metric, outputs),
                original=self._baseline(gates.task.metric),
            )
        return Quality(agreement=agreement, task=task)

    def _baseline(self, reference: str) -> float:
        """The original's score by this metric."""
        if reference not in self._baselines:
            self._baselines[reference] = self._score(reference, self._reference)
        return self._baselines[reference]

    def _score(self, reference: str, outputs: Outputs) -> float:
        """The metric's value, which must be a number."""
        value = self._source.call(
            reference, outputs, key="gates.task.metric", seed=self._recipe.seed
        )
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"gates.task.metric: {reference} gave {value!r}, must give a number.",
                hint="Return one float; more is better.",
            ) from None


def costs(
    files: Mapping[str, Path], *, baseline: str, recipe: Recipe, data: RecipeData
) -> dict[str, Cost]:
    """Size and paired latency of each file, against ``files[baseline]``."""
    latencies = measure.latency(
        files,
        baseline=baseline,
        batches=recipe.latency_batches,
        axes={name: axis.example for name, axis in recipe.model.axes.items()},
        examples=data.examples,
        rounds=recipe.measure.rounds,
        threads=threads_of(recipe),
    )
    sizes = {name: measure.size_bytes([path]) for name, path in files.items()}
    return {
        name: Cost(
            size_bytes=sizes[name],
            size_ratio=sizes[name] / sizes[baseline],
            latency=latencies[name],
        )
        for name in files
    }


def threads_of(recipe: Recipe) -> int:
    """Threads to measure with: as served, else all cores."""
    return recipe.serving.threads or available_cores()


def verdicts(
    gates: Gates, *, quality: Quality, cost: Cost, is_baseline: bool
) -> tuple[Verdict, ...]:
    """What each gate says. Pure; size and latency are not asked of the baseline itself."""
    found = []
    if (fidelity := gates.fidelity) is not None and quality.agreement is not None:
        value = getattr(quality.agreement, fidelity.metric)
        found.append(parity.at_least(f"fidelity.{fidelity.metric}", value, fidelity.min))
    if gates.task is not None and quality.task is not None:
        name = gates.task.metric.rpartition(":")[2]
        limit = quality.task.original - gates.task.max_drop
        found.append(parity.at_least(f"task.{name}", quality.task.variant, limit))
    if gates.size is not None and not is_baseline:
        found.append(parity.at_most("size.ratio", cost.size_ratio, gates.size.max_ratio))
    if gates.latency is not None and not is_baseline:
        batch = gates.latency.batch
        ratio = cost.latency.ratio[batch]
        found.append(parity.at_most(f"latency.batch{batch}.ratio", ratio, gates.latency.max_ratio))
    return tuple(found)


def report(
    recipe: Recipe, variant: Variant, *, quality: Quality, cost: Cost, is_baseline: bool
) -> VariantReport:
    """The variant's figures with the verdicts of its gates. Pure."""
    gates = recipe.gates_of(variant)
    found = verdicts(gates, quality=quality, cost=cost, is_baseline=is_baseline)
    failed = [str(verdict) for verdict in found if not verdict.passed]
    passed = f"passed {len(found)} gate{'s'[: len(found) != 1]}" if found else "no gates are set"
    metric = gates.fidelity.metric if gates.fidelity else "cosine"
    return VariantReport(
        name=variant.name,
        published_name=recipe.published_name(variant),
        steps=variant.labels,
        size_bytes=cost.size_bytes,
        size_ratio=cost.size_ratio,
        latency_ms=cost.latency.ms,
        latency_ratio=cost.latency.ratio,
        fidelity=getattr(quality.agreement, metric) if quality.agreement else None,
        agreement=quality.agreement,
        task_metric=quality.task.variant if quality.task else None,
        task_baseline=quality.task.original if quality.task else None,
        gates=found,
        accepted=not failed,
        reason="; ".join(failed) or passed,
    )


def _check_finite(outputs: Sequence[Mapping[str, NDArray[Any]]], variant: str) -> None:
    """Refuse NaN and infinity, whatever the gates say."""
    for batch in outputs:
        for name, array in batch.items():
            if not np.isfinite(array.astype(np.float64)).all():
                raise ParityError(
                    f"{variant}: output {name} holds NaN or infinity on the evaluation data.",
                    hint="A scale overflowed: try another method, or exclude the nodes at fault.",
                )
