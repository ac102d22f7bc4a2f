"""The recipe's gates: what a variant must show before it is published."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from conch.config_file import FileModel


def _reference(text: str) -> str:
    """A reference to a function: two parts with a colon between them."""
    where, _, function = text.rpartition(":")
    if not where or not function.isidentifier():
        raise ValueError("must be FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION")
    return text


Reference = Annotated[str, AfterValidator(_reference)]


class FidelityGate(FileModel):
    """Agreement with the original's outputs on the evaluation data."""

    metric: Literal["cosine", "cosine_min", "top1_agreement", "sqnr_db"] = Field(
        default="cosine",
        description="`cosine`: mean over samples; `cosine_min`: the worst sample's; "
        "`top1_agreement`: fraction of equal decisions; `sqnr_db`: signal ÷ noise in dB.",
    )
    min: float = Field(
        default=0.98, gt=0, description="Smallest value that passes; at most 1, but for `sqnr_db`."
    )
    output: str | None = Field(
        default=None, description="Judge this output only; by default the worst of all."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.metric != "sqnr_db" and self.min > 1:
            raise ValueError(f"min {self.min:g} cannot be reached: {self.metric} is at most 1")
        return self


class TaskGate(FileModel):
    """Quality at the task itself, against the original's."""

    metric: Reference = Field(
        description="Function that scores the model; more is better. It gives one number, or one "
        "score a sample, whose mean counts and whose spread gives a confidence interval. With a "
        "keyword `sample=None` it is called with drawn rows instead, for metrics that are no mean."
    )
    through: Literal["outputs", "predict", "triton"] = Field(
        default="outputs",
        description="What the function is given. `outputs`: the outputs of each evaluation "
        "batch; `predict`: a function from a batch to outputs, for metrics that must act; "
        "`triton`: the same, answered by a real Triton that serves the variant.",
    )
    max_drop: float | None = Field(
        default=None, ge=0, description="Largest loss against the original that passes."
    )
    max_drop_ratio: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="The same as a fraction of the original's score: 0.03 keeps 97 %.",
    )
    min: float | None = Field(default=None, description="Smallest score that passes.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.max_drop is None and self.max_drop_ratio is None and self.min is None:
            raise ValueError("sets no limit; give max_drop, max_drop_ratio or min")
        return self

    @property
    def name(self) -> str:
        """The metric's own name, without where it is."""
        return self.metric.rpartition(":")[2]

    @property
    def labels(self) -> list[str]:
        """The limits in words."""
        found = []
        if self.max_drop is not None:
            found.append(f"{self.name} at most {self.max_drop:g} below the original's")
        if self.max_drop_ratio is not None:
            found.append(f"{self.name} at least {1 - self.max_drop_ratio:.0%} of the original's")
        if self.min is not None:
            found.append(f"{self.name} at least {self.min:g}")
        return found


class ComplexityGate(FileModel):
    """Multiply-accumulate operations of one sample, against the original's."""

    max_ratio: float = Field(gt=0, description="Largest MACs ÷ original MACs that passes.")


class SizeGate(FileModel):
    """Bytes of the files, against the unchanged ONNX export."""

    max_ratio: float = Field(gt=0, description="Largest size ÷ baseline size that passes.")


class LatencyGate(FileModel):
    """Latency against the unchanged ONNX export, paired in one run."""

    batch: int = Field(default=8, ge=1, description="Batch size; must be one of measure.batches.")
    max_ratio: float = Field(gt=0, description="Largest latency ÷ baseline latency that passes.")


class Gates(FileModel):
    """A variant that misses one is reported and never published."""

    fidelity: FidelityGate | None = Field(
        default_factory=FidelityGate, description="`null` switches it off."
    )
    task: TaskGate | None = Field(default=None, description="No task gate by default.")
    size: SizeGate | None = Field(default=None, description="Not applied to the baseline.")
    latency: LatencyGate | None = Field(
        default=None, description="Not applied to the baseline, nor to variants for TensorRT."
    )
    complexity: ComplexityGate | None = Field(
        default=None, description="For pruned and distilled variants; not applied to the baseline."
    )

    @property
    def labels(self) -> list[str]:
        """The gates that are set, with their bounds."""
        found = []
        if self.fidelity is not None:
            found.append(f"{self.fidelity.metric} at least {self.fidelity.min:g}")
        if self.task is not None:
            found += self.task.labels
        if self.size is not None:
            found.append(f"size at most {self.size.max_ratio:g} of the baseline's")
        if self.latency is not None:
            ratio, batch = self.latency.max_ratio, self.latency.batch
            found.append(f"latency at batch {batch} at most {ratio:g} of the baseline's")
        if self.complexity is not None:
            found.append(f"MACs at most {self.complexity.max_ratio:g} of the original's")
        return found
