"""Quantization-aware training: weights that bear INT8, for models that static quantization breaks.

While it trains, each convolution and linear layer sees its input and its weights rounded to 8
bits, and what a linear layer gives is rounded, too; gradients pass the rounding as if it were not
there. Afterwards the rounding is taken off again: the step gives a plain module, which ``to_onnx``
and then ``quantize`` (or ``search``) handle as any other. So the ONNX file has the Q/DQ form that
every runtime and TensorRT are known to take, and no second quantizer has to agree with the first.

Weight scales of single channels commute with the batch normalisation that export folds in; one
scale for a whole tensor would not, so only the former are offered.

Sources: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018; straight-through gradient: torch.fake_quantize_*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from export import losses, training
from export.gates import Reference
from export.steps.base import Artifact, Context
from export.steps.trained import Trained, names
from export.training_data import Rows

if TYPE_CHECKING:
    from export.losses import Loss

CALIBRATION_STEPS = 8


class Qat(Trained):
    """Train with 8-bit rounding, so that a later ``quantize`` with ``static_qdq`` loses less."""

    name: ClassVar[str] = "qat"

    loss: Literal["logits", "embedding", "match", "cross_entropy", "mse"] | Reference = Field(
        default="logits",
        description="Towards the original: `logits`, `embedding` as in distill, `match` (mean "
        "square of all outputs). With labels: as in finetune.",
    )
    temperature: float = Field(default=4.0, gt=0, description="Softens `logits`.")
    activations: Literal["u8", "s8"] = Field(
        default="u8",
        description="Rounding of the layers' inputs; the same as in the quantize step that "
        "follows: u8 with a zero point for CPUs, s8 symmetric for TensorRT.",
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="Names or patterns of layers that will not be quantized."
    )

    @property
    def label(self) -> str:
        """Step and form."""
        return f"qat {self.activations}"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The trained module, without the rounding.

        Raises:
            ConfigError: when data or options do not fit, or the loss is not finite.
        """
        from export.steps import rounding

        module = training.duplicate(artifact.torch_module)
        training.check_finite(module)
        layers = rounding.attach(module, signed=self.activations == "s8", ignore=self.ignore)
        self._calibrate(module, context)
        trained = self._trained(module, artifact, context, quantized_layers=len(layers))
        rounding.detach(module)
        return trained

    def _calibrate(self, module: Any, context: Context) -> None:
        """First ranges of the layers' inputs; training then keeps them up to date."""
        import torch

        from export.steps import rounding

        rows = Rows.of(context.data.training())
        given = names(context.recipe.model)
        with torch.no_grad(), rounding.observing(module):
            for step in range(min(CALIBRATION_STEPS, rows.steps_per_epoch(self.batch_size))):
                batch = rows.minibatch(step, batch_size=self.batch_size, seed=context.recipe.seed)
                training.forward(module.eval(), batch, names=given)

    def _loss(self, context: Context) -> Loss:
        if self.loss == "logits":
            return losses.soft_targets(
                self._output(context), self._teacher(context), temperature=self.temperature, alpha=1
            )
        if self.loss == "embedding":
            return losses.embeddings(self._output(context), self._teacher(context))
        if self.loss == "match":
            return losses.same_outputs(self._teacher(context))
        return self._named_loss(self.loss, context)
