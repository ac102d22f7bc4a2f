"""Structured pruning: whole channels are taken out, so the network is smaller in every runtime.

Layers whose channels meet (a skip connection adds them) form a group and lose the same channels.
The groups come from torch-pruning's dependency graph; the layers that decide the outputs' shape are
left alone. What is pruned knows next to nothing and must be trained again (see ``needs_recovery``).

Source: G. Fang et al., "DepGraph: Towards Any Structural Pruning", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from conch.errors import ConfigError
from export import training
from export.complexity import Complexity, count
from export.gates import Reference
from export.steps import pruning
from export.steps.base import Artifact, Context, Form, Part, Step
from export.steps.sparsify import FACT as SPARSITY
from export.steps.trained import labelled_loss, names
from export.training_data import TARGET, Rows

if TYPE_CHECKING:
    import torch

    from export.losses import Tensors

Share = Annotated[float, Field(gt=0, lt=1)]
FACT = "pruning"
RECOVERY = ("finetune", "distill", "qat")


class Prune(Step):
    """Take out the channels that matter least."""

    name: ClassVar[str] = "prune"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    packages: ClassVar[tuple[str, ...]] = ("torch-pruning", "torch")

    ratio: Share | None = Field(
        default=None, description="Fraction of channels to take out of every group of layers."
    )
    target_macs: Share | None = Field(
        default=None,
        description="Fraction of the multiply-accumulates to keep at most: the smallest ratio that "
        "gets there is searched.",
    )
    layers: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=dict,
        description="Ratios of single layers by name or pattern (`blocks.2.*`), over the common "
        "one; alone, nothing else is pruned.",
    )
    importance: Literal["taylor", "magnitude", "fpgm", "lamp", "random"] = Field(
        default="taylor",
        description="What a channel is worth: `taylor` weight times gradient of the loss on "
        "training data, `magnitude` norm of the weights, `fpgm` distance to the other channels, "
        "`lamp` magnitude relative to the layer, `random` to compare with.",
    )
    loss: Literal["cross_entropy", "mse", "outputs"] | Reference = Field(
        default="cross_entropy",
        description="Loss for taylor: as in finetune, or `outputs` (mean square of the outputs), "
        "which needs no labels.",
    )
    batches: int = Field(default=16, ge=1, description="Minibatches of 64 rows for taylor.")
    global_ranking: bool = Field(
        default=False,
        description="Rank channels of all groups together, instead of taking the ratio from each.",
    )
    round_to: int = Field(
        default=8, ge=1, description="Channel counts become multiples of this; kernels like 8."
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Names or patterns of layers to leave whole. Attention that splits a fixed "
        "number of heads belongs here.",
    )

    @model_validator(mode="after")
    def _says_how_much(self) -> Self:
        if self.ratio is not None and self.target_macs is not None:
            raise ValueError("ratio and target_macs are both set; give one of them")
        if self.ratio is None and self.target_macs is None and not self.layers:
            raise ValueError("says not how much to prune; give ratio, target_macs or layers")
        return self

    @property
    def uses(self) -> frozenset[Part]:
        """The training data, where the importance needs gradients."""
        return frozenset({Part.TRAINING}) if self.importance == "taylor" else frozenset()

    @property
    def references(self) -> tuple[str, ...]:
        """Functions that the options name."""
        return (self.loss,) if ":" in self.loss else ()

    @property
    def label(self) -> str:
        """Step and extent."""
        if self.target_macs is not None:
            return f"prune to {self.target_macs:.0%} MACs"
        return f"prune {self.ratio:.0%}" if self.ratio is not None else "prune layers"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The smaller module, not yet trained again.

        Raises:
            ConfigError: when a layer is not there or cannot be pruned, when the target cannot be
                reached, or when nothing was pruned.
        """
        import torch

        if SPARSITY in artifact.facts:
            raise ConfigError(
                "prune: the model is 2:4 sparse, which taking out channels would break.",
                hint="Put sparsify after prune.",
            )
        original = training.duplicate(artifact.torch_module).eval()
        training.check_finite(original)
        model = context.recipe.model
        sizes = {"batch": 2, **{name: axis.example for name, axis in model.axes.items()}}
        rows = context.data.examples(sizes)
        example = [torch.from_numpy(rows[tensor.name]) for tensor in model.inputs]
        before = count(original, example)
        if self.importance == "taylor":
            self._gradients(original, context)
        request = pruning.Request(
            layers=self.layers,
            ignore=self.ignore,
            importance=self.importance,
            global_ranking=self.global_ranking,
            round_to=self.round_to,
            seed=context.recipe.seed,
        )
        plan = pruning.Plan(original, example, request)
        module = self._pruned(plan, before, context)
        after = count(module, example)
        if after.params == before.params:
            raise ConfigError(
                f"prune: took out nothing; no group loses {self.round_to} channels at this ratio.",
                hint="Raise the ratio, or lower round_to.",
            )
        fact = {
            "macs_before": before.macs,
            "macs_after": after.macs,
            "params_before": before.params,
            "params_after": after.params,
            "ratio": plan.used_ratio,
            "kept_whole": plan.kept_whole,
            "channels": pruning.channels(original, module),
        }
        done = artifact.facts.get(FACT, [])
        return Artifact(
            form=Form.TORCH, module=module, facts={**artifact.facts, FACT: [*done, fact]}
        )

    def _pruned(self, plan: pruning.Plan, before: Complexity, context: Context) -> torch.nn.Module:
        """The module at the ratio, or at the smallest ratio that reaches the target."""
        if self.target_macs is None:
            return plan.pruned(self.ratio or 0.0)
        low, high = 0, 96  # in percent; the search halves the interval (low, high]
        least = count(plan.pruned(high / 100), plan.example).macs / before.macs
        if least > self.target_macs:
            raise ConfigError(
                f"prune.target_macs = {self.target_macs:g} cannot be reached: {least:.3f} is the "
                f"least, with round_to {self.round_to} and {len(plan.kept_whole)} layers kept "
                "whole.",
                hint="Raise target_macs, lower round_to, or ignore fewer layers.",
            )
        while high - low > 1:
            middle = (low + high) // 2
            share = count(plan.pruned(middle / 100), plan.example).macs / before.macs
            low, high = (low, middle) if share <= self.target_macs else (middle, high)
            context.tell(96 - (high - low), 96, f"{share:.0%} of the MACs at ratio {middle} %")
        return plan.pruned(high / 100)

    def _gradients(self, module: torch.nn.Module, context: Context) -> None:
        """Leave the loss's gradients, added over minibatches of training data, on the weights."""
        rows = Rows.of(context.data.training())
        given = names(context.recipe.model)
        module.requires_grad_(True)
        for step in range(min(self.batches, rows.steps_per_epoch(64))):
            batch = rows.minibatch(step, batch_size=64, seed=context.recipe.seed)
            self._value(training.forward(module, batch, names=given), batch, context).backward()

    def _value(self, outputs: Tensors, batch: Tensors, context: Context) -> Any:
        """The loss of one minibatch."""
        import torch

        if self.loss == "outputs":
            parts = [value.square().mean() for value in outputs.values()]
            return torch.stack(parts).sum()
        if TARGET not in batch and ":" not in self.loss:
            raise ConfigError(
                f"prune.loss: {self.loss} needs labels, but data.training has no {TARGET}.",
                hint="Write loss: outputs, or importance: magnitude.",
            )
        return labelled_loss(self.loss, context, None, key=self.name)(outputs, batch)


def needs_recovery(steps: Sequence[Step]) -> str | None:
    """What is wrong with the order of a variant's training steps; None when nothing is.

    A pruned network knows next to nothing, so a step that trains it must follow; a student knows
    nothing of what was taken out of the model before it.
    """
    taken_out: set[str] = set()
    for step in steps:
        if getattr(step, "student", None) and taken_out:
            return (
                f"{step.name} with a student starts anew and forgets {' and '.join(taken_out)}; "
                "put it first"
            )
        if step.name in RECOVERY:
            taken_out.discard("prune")
        elif step.name in ("prune", "sparsify"):
            taken_out.add(step.name)
    if "prune" in taken_out:
        return (
            "prune must be followed by finetune or distill: right after pruning a network knows "
            "next to nothing"
        )
    return None
