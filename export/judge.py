"""What is found about a variant, and the verdicts of its gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from conch.errors import ParityError
from export import measure, parity, targets, task
from export.data import RecipeData
from export.gates import Gates, TaskGate
from export.parity import Agreement, Verdict
from export.recipe import Recipe
from export.session import Session, available_cores, check_finite
from export.steps import Artifact, Form
from export.steps.base import Tell

if TYPE_CHECKING:
    from export.tasks import Bench

Outputs = list[dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """The task metric of a variant and of the original; more is better.

    Attributes:
        variant: the variant's.
        original: the original's.
        interval: 95 % confidence interval of variant − original; None where there is none.
    """

    variant: float
    original: float
    interval: tuple[float, float] | None = None


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


def evaluation_batches(recipe: Recipe, data: RecipeData) -> Outputs:
    """The evaluation data; without any, one example of two rows."""
    if recipe.data.evaluation is not None:
        return data.evaluation()
    example = {"batch": 2, **{name: axis.example for name, axis in recipe.model.axes.items()}}
    return [data.examples(example)]


def quality(
    bench: Bench,
    artifact: Artifact,
    *,
    reference: Outputs,
    original: Mapping[str, Any],
    variant: str,
    gate: TaskGate | None,
    output: str | None,
) -> Quality:
    """The variant's outputs and its task score against the original's.

    Args:
        bench: the run's code and data.
        artifact: the variant.
        reference: the original's outputs, by evaluation batch.
        original: the original's scores of metrics that act, as ``TaskResult.as_facts`` gave them.
        variant: its name, for messages.
        gate: the task to score; None for none.
        output: judge the agreement of this output only.

    Raises:
        ParityError: when the variant fails on the data, gives other shapes, or gives NaN.
        ConfigError: when the task metric raises or gives no number.
    """
    _check_target(artifact.file, bench.recipe.serving.target_triton, variant)
    session = Session(artifact.file, outputs=bench.recipe.output_names)
    outputs = [session.run(b) for b in evaluation_batches(bench.recipe, bench.data)]
    check_finite(outputs, variant)
    agreement = None
    if bench.recipe.data.evaluation is not None:
        try:
            agreement = parity.compare(reference, outputs, output=output)
        except ValueError as error:
            raise ParityError(
                f"{variant}: {error}.", hint="A step changed the model's outputs."
            ) from error
    if gate is None:
        return Quality(agreement=agreement)
    recipe, source = bench.recipe, bench.source
    if gate.through == "outputs":
        own = task.score(source, gate.metric, outputs, seed=recipe.seed)
        base = task.score(source, gate.metric, reference, seed=recipe.seed)
    else:
        base = task.TaskResult.from_facts(original)
        if gate.through == "predict":
            own = task.play(source, gate.metric, session.run, seed=recipe.seed)
        else:
            own = _through_triton(bench, artifact, gate)
    interval = task.interval(own, base, seed=recipe.seed)
    return Quality(
        agreement=agreement,
        task=TaskScore(
            variant=own.value,
            original=base.value,
            interval=(interval.low, interval.high) if interval else None,
        ),
    )


def _check_target(path: Path, release: str, variant: str) -> None:
    """Refuse a file that the ONNX Runtime of the target server cannot load."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    opset = {entry.domain: entry.version for entry in proto.opset_import}
    if problem := targets.check(opset, proto.ir_version, targets.target(release)):
        raise ParityError(
            f"{variant}: {problem}.",
            hint="Name a lower opset in to_onnx, or another serving.target_triton.",
        )


def _through_triton(bench: Bench, artifact: Artifact, gate: TaskGate) -> task.TaskResult:
    """The metric, answered by a real Triton that serves the variant."""
    from export import trial
    from export.config_pbtxt import triton_config

    name = f"{bench.recipe.model.name}_on_trial"
    config = triton_config(bench.recipe, name)
    for output in config.output:
        output.label_filename = ""  # the metric reads tensors
    model = trial.Model(config=config, files=(artifact.file, *artifact.extra))
    with trial.serving({name: model}) as served:
        return task.play(
            bench.source,
            gate.metric,
            lambda batch: served.infer(name, batch),
            seed=bench.recipe.seed,
        )


def costs(
    artifacts: Mapping[str, Artifact],
    *,
    baseline: str,
    recipe: Recipe,
    data: RecipeData,
    tell: Tell,
) -> dict[str, Cost]:
    """Size and paired latency of each variant, against ``artifacts[baseline]``."""
    axes = {name: axis.example for name, axis in recipe.model.axes.items()}
    latencies = measure.latency(
        {name: artifact.file for name, artifact in artifacts.items()},
        baseline=baseline,
        batches=recipe.latency_batches,
        axes={**axes, **recipe.measure.axes},
        examples=data.examples,
        rounds=recipe.measure.rounds,
        threads=threads_of(recipe),
        outputs=recipe.output_names,
        tell=tell,
    )
    sizes = {name: measure.size_bytes(weights(one)) for name, one in artifacts.items()}
    return {
        name: Cost(
            size_bytes=sizes[name],
            size_ratio=sizes[name] / sizes[baseline],
            latency=latencies[name],
        )
        for name in artifacts
    }


def weights(artifact: Artifact) -> list[Path]:
    """The graph and the files that hold its weights, without notes such as a build recipe."""
    return [artifact.file, *(path for path in artifact.extra if path.suffix != ".json")]


def threads_of(recipe: Recipe) -> int:
    """Threads to measure with: as served, else all cores."""
    return recipe.serving.threads or available_cores()


def verdicts(
    gates: Gates,
    *,
    quality: Quality,
    cost: Cost,
    facts: Mapping[str, Any],
    target: Form,
    macs_ratio: float | None = None,
    is_baseline: bool,
) -> tuple[Verdict, ...]:
    """What each gate says. Pure.

    Size, latency and complexity are not asked of the baseline itself, and latency only of what
    is served by ONNX Runtime: an engine for a GPU cannot be timed on a CPU.

    Args:
        gates: the variant's.
        quality, cost: what was found about it.
        facts: what its steps noted; of it, the TensorRT gate's findings.
        target: the form it is served in.
        macs_ratio: its MACs ÷ the original's, where known.
        is_baseline: whether it is the plain export.
    """
    found = _quality_verdicts(gates, quality)
    if target is Form.TENSORRT:
        from export.tensorrt import gate

        found += gate.verdicts(facts)
    if is_baseline:
        return tuple(found)
    if gates.size is not None:
        found.append(parity.at_most("size.ratio", cost.size_ratio, gates.size.max_ratio))
    if gates.latency is not None and target is not Form.TENSORRT:
        batch = gates.latency.batch
        ratio = cost.latency.ratio[batch]
        found.append(parity.at_most(f"latency.batch{batch}.ratio", ratio, gates.latency.max_ratio))
    if gates.complexity is not None:
        ratio = float("nan") if macs_ratio is None else macs_ratio
        found.append(parity.at_most("complexity.ratio", ratio, gates.complexity.max_ratio))
    return tuple(found)


def _quality_verdicts(gates: Gates, quality: Quality) -> list[Verdict]:
    """The verdicts on fidelity and on the task."""
    found = []
    if (fidelity := gates.fidelity) is not None and quality.agreement is not None:
        value = getattr(quality.agreement, fidelity.metric)
        found.append(parity.at_least(f"fidelity.{fidelity.metric}", value, fidelity.min))
    if (gate := gates.task) is not None and (score := quality.task) is not None:
        found += [
            parity.at_least(f"task.{gate.name}", score.variant, limit)
            for limit in task_limits(gate, score.original)
        ]
    return found


def task_limits(gate: TaskGate, original: float) -> list[float]:
    """The smallest scores that the gate lets pass, one for each limit it sets."""
    limits = []
    if gate.max_drop is not None:
        limits.append(original - gate.max_drop)
    if gate.max_drop_ratio is not None:
        limits.append(original - abs(original) * gate.max_drop_ratio)
    if gate.min is not None:
        limits.append(gate.min)
    return limits


def quality_from(facts: Mapping[str, Any]) -> Quality:
    """The quality that ``dataclasses.asdict`` turned into JSON values."""
    agreement, score = facts["agreement"], facts["task"]
    return Quality(
        agreement=Agreement(**agreement) if agreement else None,
        task=TaskScore(**{**score, "interval": _pair(score["interval"])}) if score else None,
    )


def cost_from(facts: Mapping[str, Any]) -> Cost:
    """The cost that ``dataclasses.asdict`` turned into JSON values."""
    latency = {
        key: {int(batch): value for batch, value in entry.items()}
        for key, entry in facts["latency"].items()
    }
    return dataclasses.replace(
        Cost(**{**facts, "latency": None}), latency=measure.Latency(**latency)
    )


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    """Two numbers, or none."""
    return (value[0], value[1]) if value else None
