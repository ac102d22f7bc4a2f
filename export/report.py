"""What an export run found, as values, as JSON and as a table."""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export.parity import Agreement, Verdict

SCHEMA = 2


class Status(enum.StrEnum):
    """What became of a variant."""

    PUBLISHED = "published"
    """It passed its gates and is in the repository."""
    ACCEPTED = "accepted"
    """It passed its gates; nothing was to be published."""
    DOMINATED = "dominated"
    """It passed its gates, but another variant is at least as good in everything."""
    KEPT = "kept"
    """No candidate of its search is worth serving: the plain export is kept instead."""
    REFUSED = "refused"
    """It missed a gate."""
    SKIPPED = "skipped"
    """A tool that it needs is not installed, or it needs a GPU."""
    FAILED = "failed"
    """It could not be built, compared or loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReport:
    """One candidate of a search.

    Attributes:
        name: e.g. ``smoothquant`` or ``static_u8 -6``.
        steps: labels of its steps.
        status: accepted, refused, skipped or failed.
        reason: why.
        size_ratio: size ÷ the baseline's.
        latency_ratio: batch size → latency ÷ the baseline's.
        fidelity: the figure of the fidelity gate.
        task_metric: the task metric's value.
        chosen: whether it became the variant.
        seconds: what building it took.
    """

    name: str
    steps: tuple[str, ...]
    status: Status
    reason: str
    size_ratio: float | None = None
    latency_ratio: Mapping[int, float] = field(default_factory=dict)
    fidelity: float | None = None
    task_metric: float | None = None
    chosen: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One stage of the run.

    Attributes:
        name: what people read.
        variant: the variant it was for; empty when for all.
        seconds: what it took, in this run or in the one that it is cached from.
        cached: whether it was not run again.
    """

    name: str
    variant: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant's figures and fate.

    Attributes:
        name: as in the recipe.
        published_name: its name in the model repository.
        steps: labels of its steps.
        size_bytes: bytes of its files; 0 when it could not be built.
        size_ratio: size ÷ the baseline's (0.25 is four times smaller).
        latency_ms: batch size → median milliseconds of one batch.
        latency_ratio: batch size → latency ÷ the baseline's, paired (0.5 is twice as fast).
        fidelity: the figure that the fidelity gate judges; cosine without a gate; None if unknown.
        agreement: all figures of agreement with the original.
        task_metric: the task metric's value for this variant.
        task_baseline: the same metric's value for the original.
        gates: the verdicts.
        accepted: whether it passed all gates.
        reason: why it was refused, or what was done with it.
        published_version: the version in the repository; None when nothing was written.
        seconds: stage → seconds spent on it for this variant.
        status: what became of it.
        target: ``onnx`` or ``tensorrt``.
        macs: multiply-accumulate operations of one sample; None for an ONNX source.
        params: numbers in its parameters, before quantization; None for an ONNX source.
        macs_ratio: MACs ÷ the original's.
        task_interval: 95 % confidence interval of its task metric minus the original's.
        candidates: what its search tried.
        sensitivity: what each layer alone costs in fidelity, the most sensitive first.
        sha256: file → hash of what was (or would be) published.
    """

    name: str
    published_name: str
    steps: tuple[str, ...] = ()
    size_bytes: int = 0
    size_ratio: float | None = None
    latency_ms: Mapping[int, float] = field(default_factory=dict)
    latency_ratio: Mapping[int, float] = field(default_factory=dict)
    fidelity: float | None = None
    agreement: Agreement | None = None
    task_metric: float | None = None
    task_baseline: float | None = None
    gates: tuple[Verdict, ...] = ()
    accepted: bool = False
    reason: str = ""
    published_version: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    status: Status = Status.FAILED
    target: str = "onnx"
    macs: int | None = None
    params: int | None = None
    macs_ratio: float | None = None
    task_interval: tuple[float, float] | None = None
    candidates: tuple[CandidateReport, ...] = ()
    sensitivity: tuple[Mapping[str, Any], ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One export run.

    Attributes:
        model: the recipe's model name.
        recipe: the recipe's path as given.
        recipe_sha256: hash of the recipe and the code files it names.
        baseline: the variant that size and latency ratios are taken against.
        threads: ONNX Runtime threads of the latency figures.
        seconds: stage → seconds, of stages that all variants share.
        total_seconds: of the whole run.
        dry_run: whether publishing was left out.
        repository: where accepted variants were published; None for nowhere.
        variants: in the recipe's order.
        configs: published name → ``config.pbtxt`` as it was (or would be) written.
        ensembles: names of the ensembles around the variants, as published.
        verified: what was loaded on a real Triton before it was published, in a line.
        task: name of the task metric; empty without one.
        stages: what was done, in order.
        original: dtypes, shapes, parameters of the original.
        warnings: what is worth a look, e.g. samples that are in calibration and evaluation both,
            or how versions are numbered.
        versions: of Python and the packages that decide what an export gives.
        machine: processor, its features, and cores.
        finished_at: when the run ended, UTC.
    """

    model: str
    recipe: str
    recipe_sha256: str
    baseline: str
    threads: int
    seconds: Mapping[str, float]
    total_seconds: float
    dry_run: bool
    repository: str | None
    variants: tuple[VariantReport, ...]
    configs: Mapping[str, str] = field(default_factory=dict)
    ensembles: tuple[str, ...] = ()
    verified: str = ""
    task: str = ""
    stages: tuple[StageReport, ...] = ()
    original: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    finished_at: str = ""

    @property
    def accepted(self) -> tuple[VariantReport, ...]:
        """The variants that passed all their gates."""
        return tuple(variant for variant in self.variants if variant.accepted)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, with the schema's version."""
        return {"schema": SCHEMA, **finite(asdict(self))}

    def save(self, path: Path) -> None:
        """Write the JSON, whole or not at all.

        Raises:
            OSError: when the disk refuses.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            temp.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)


def load(path: Path, *, recipe: str = "RECIPE") -> Report:
    """The report that ``save`` wrote; ``recipe`` is how messages name its recipe.

    Raises:
        ConfigError: when the file is missing or is no such report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError("written by another version of Conch")
        variants = tuple(_variant(entry) for entry in data.pop("variants"))
        stages = tuple(StageReport(**entry) for entry in data.pop("stages"))
        for key in ("ensembles", "warnings"):
            data[key] = tuple(data[key])
        return Report(**data, variants=variants, stages=stages)
    except FileNotFoundError:
        raise ConfigError(
            f"report: {path} is not there.", hint=f"Run `conch export run {recipe}` first."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"report: {path} cannot be read ({error}).",
            hint=f"Run `conch export run {recipe}` again.",
        ) from error


def _variant(entry: dict[str, Any]) -> VariantReport:
    """A variant from JSON."""
    agreement = entry.pop("agreement")
    gates = entry.pop("gates")
    interval = entry.pop("task_interval")
    candidates = entry.pop("candidates")
    sensitivity = entry.pop("sensitivity")
    return VariantReport(
        **_typed(entry),
        agreement=Agreement(**_numbers(agreement)) if agreement else None,
        gates=tuple(Verdict(**_numbers(gate)) for gate in gates),
        task_interval=(float(interval[0]), float(interval[1])) if interval else None,
        candidates=tuple(CandidateReport(**_typed(one)) for one in candidates),
        sensitivity=tuple(_numbers(row) for row in sensitivity),
    )


def _typed(entry: dict[str, Any]) -> dict[str, Any]:
    """What variants and candidates share: batch sizes are numbers again, the status is an enum."""
    for key in ("latency_ms", "latency_ratio"):
        if key in entry:
            entry[key] = {int(batch): value for batch, value in entry[key].items()}
    figures = _numbers({key: entry[key] for key in ("fidelity", "task_metric")})
    known = {"steps": tuple(entry["steps"]), "status": Status(entry["status"])}
    return {**entry, **figures, **known}


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become the words that ``float`` reads back."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of ``finite`` for one flat mapping."""
    return {
        key: float(value) if value in ("nan", "inf", "-inf") else value
        for key, value in entry.items()
    }
