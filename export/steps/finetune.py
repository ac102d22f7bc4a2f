"""Training with labels: recovers what pruning took, or fits the model to its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from export import losses
from export.gates import Reference
from export.steps.base import Context
from export.steps.trained import Trained

if TYPE_CHECKING:
    from export.losses import Loss


class Finetune(Trained):
    """Train on labelled data."""

    name: ClassVar[str] = "finetune"

    loss: Literal["cross_entropy", "mse"] | Reference = Field(
        default="cross_entropy",
        description="`cross_entropy` (target: class numbers), `mse` (target: as the output), or a "
        "function `({output: tensor}, target) -> scalar tensor`.",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the target that cross_entropy spreads."
    )

    def _loss(self, context: Context) -> Loss:
        if self.loss == "cross_entropy":
            return losses.cross_entropy(self._output(context), smoothing=self.label_smoothing)
        return self._named_loss(self.loss, context)
