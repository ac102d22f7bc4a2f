"""Training towards the original's outputs, with or without labels; the teacher never changes.

Source: G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from conch.errors import ConfigError
from export import losses, training
from export.gates import Reference
from export.steps.base import Artifact, Context
from export.steps.trained import Trained

if TYPE_CHECKING:
    import torch

    from export.losses import Loss


class Distill(Trained):
    """Train the model, or a smaller student, to give what the original gives."""

    name: ClassVar[str] = "distill"

    loss: Literal["logits", "embedding", "mse"] = Field(
        default="logits",
        description="`logits`: softened class scores, plus cross entropy where there are labels; "
        "`embedding`: cosine and similarity matrix; `mse`: all outputs as they are.",
    )
    temperature: float = Field(
        default=4.0, gt=0, description="Softens the scores of both; above 1 for logits."
    )
    alpha: float = Field(
        default=0.7, ge=0, le=1, description="Share of the teacher where there are labels, too."
    )
    student: Reference | None = Field(
        default=None,
        description="Function without arguments that gives another, smaller module with the same "
        "inputs and outputs; without it the model at hand is trained.",
    )

    @property
    def label(self) -> str:
        """Step, and the student where there is one."""
        return "distill student" if self.student else "distill"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The trained module.

        Raises:
            ConfigError: when data or options do not fit, the student is no module or gives other
                shapes than the original, or the loss is not finite.
        """
        if self.student is None:
            return super().run(artifact, context)
        student = self._new_student(self.student, context)
        fresh = Artifact(
            form=artifact.form,
            facts={k: v for k, v in artifact.facts.items() if k not in ("pruning", "sparsity")},
        )
        params = sum(weight.numel() for weight in student.parameters())
        return self._trained(student, fresh, context, student_params=params)

    def _new_student(self, reference: str, context: Context) -> torch.nn.Module:
        """What the recipe's factory gives."""
        import torch

        key = f"{self.name}.student"
        student = context.source.call(reference, key=key, seed=context.recipe.seed)
        if not isinstance(student, torch.nn.Module):
            raise ConfigError(
                f"{key}: {reference} gave a {type(student).__name__}, must give a torch.nn.Module.",
                hint="Return the module itself.",
            )
        return training.duplicate(student).cpu()

    def _loss(self, context: Context) -> Loss:
        teacher = self._teacher(context)
        if self.loss == "mse":
            return losses.same_outputs(teacher)
        output = self._output(context)
        if self.loss == "embedding":
            return losses.embeddings(output, teacher)
        return losses.soft_targets(output, teacher, temperature=self.temperature, alpha=self.alpha)
