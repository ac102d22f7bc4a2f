"""What an export run found, as values, as JSON and as a table."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conch.errors import ConfigError
from export.parity import Agreement, Verdict

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1


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

    @property
    def accepted(self) -> tuple[VariantReport, ...]:
        """The variants that passed all their gates."""
        return tuple(variant for variant in self.variants if variant.accepted)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, with the schema's version."""
        return {"schema": SCHEMA, **_finite(asdict(self))}

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


def load(path: Path) -> Report:
    """The report that ``save`` wrote.

    Raises:
        ConfigError: when the file is missing or is no such report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError("written by another version of Conch")
        variants = tuple(_variant(entry) for entry in data.pop("variants"))
        return Report(**data, variants=variants)
    except FileNotFoundError:
        raise ConfigError(
            f"report: {path} is not there.", hint="Run `conch export run RECIPE` first."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"report: {path} cannot be read ({error}).", hint="Run `conch export run RECIPE` again."
        ) from error


def table(report: Report) -> Table:
    """The report as a rich table, one row a variant."""
    from rich.table import Table

    batches = sorted({batch for variant in report.variants for batch in variant.latency_ms})
    shown = Table(title=f"{report.model}: variants against {report.baseline}", title_justify="left")
    shown.add_column("variant")
    shown.add_column("size", justify="right")
    for batch in batches:
        shown.add_column(f"batch {batch}, ms", justify="right")
    shown.add_column("cosine", justify="right")
    shown.add_column("task metric", justify="right")
    shown.add_column("verdict", overflow="fold")
    for variant in report.variants:
        shown.add_row(
            variant.name,
            _size(variant),
            *(_latency(variant, batch) for batch in batches),
            f"{variant.agreement.cosine:.4f}" if variant.agreement else "-",
            f"{variant.task_metric:.4f}" if variant.task_metric is not None else "-",
            f"{'[green]accepted' if variant.accepted else '[red]refused'}[/]: {variant.reason}",
        )
    return shown


def _size(variant: VariantReport) -> str:
    """Size and how many times smaller."""
    if not variant.size_bytes:
        return "-"
    times = f" ({1 / variant.size_ratio:.1f}x)" if variant.size_ratio else ""
    return f"{variant.size_bytes / 1e6:.2f} MB{times}"


def _latency(variant: VariantReport, batch: int) -> str:
    """Latency and how many times faster."""
    if batch not in variant.latency_ms:
        return "-"
    return f"{variant.latency_ms[batch]:.2f} ({1 / variant.latency_ratio[batch]:.1f}x)"


def _variant(entry: dict[str, Any]) -> VariantReport:
    """A variant from JSON: batch sizes are numbers again."""
    for key in ("latency_ms", "latency_ratio"):
        entry[key] = {int(batch): value for batch, value in entry[key].items()}
    agreement = entry.pop("agreement")
    return VariantReport(
        **{key: entry[key] for key in entry if key not in ("gates", "steps")},
        steps=tuple(entry["steps"]),
        agreement=Agreement(**_numbers(agreement)) if agreement else None,
        gates=tuple(Verdict(**_numbers(gate)) for gate in entry["gates"]),
    )


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become the words that ``float`` reads back."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of ``_finite`` for one flat mapping."""
    return {
        key: float(value) if value in ("nan", "inf", "-inf") else value
        for key, value in entry.items()
    }
