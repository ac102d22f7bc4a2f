"""What every step that trains shares: its options, its loss, and the way to ``export.training``."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from conch.errors import ConfigError
from export import losses, training
from export.gates import Reference
from export.steps.base import Artifact, Context, Form, Part, Step
from export.steps.sparsify import keep_zeros
from export.training_data import Rows

if TYPE_CHECKING:
    import torch

    from export.losses import Loss, Tensors
    from export.recipe import Model

DEFAULT_STEPS = 500


class Trained(Step):
    """A step that trains a PyTorch model on ``data.training``."""

    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    steps: int | None = Field(
        default=None,
        ge=1,
        description=f"Minibatches to train for; {DEFAULT_STEPS} without steps or epochs.",
    )
    epochs: float | None = Field(
        default=None, gt=0, description="Times that each row is seen, instead of steps."
    )
    batch_size: int = Field(default=64, ge=2, description="Rows a minibatch.")
    learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="The highest learning rate of the schedule."
    )
    schedule: Literal["one_cycle", "cosine", "constant"] = Field(
        default="one_cycle",
        description="How the rate changes: one_cycle rises for 30 % of the steps, then falls to "
        "nearly zero; cosine only falls.",
    )
    optimizer: Literal["adam", "adamw"] = Field(
        default="adam", description="adamw applies the weight decay beside the gradient."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Pull of the weights towards zero.")
    held_back: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="Fraction of the rows (2,000 at most) never trained on; the weights that do "
        "best on them are kept. 0 keeps the last weights.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many of the 8 checks without progress; by default never, since "
        "one_cycle gets worse before it gets better.",
    )
    augment: Reference | None = Field(
        default=None,
        description="Function that changes a minibatch before it is trained on: "
        "`({name: tensor}) -> {name: tensor}`, e.g. to shift pictures.",
    )
    output: str | None = Field(
        default=None, description="The output that the loss reads; by default the first."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both set; give one of them")
        return self

    @property
    def uses(self) -> frozenset[Part]:
        """The training data."""
        return frozenset({Part.TRAINING})

    @property
    def references(self) -> tuple[str, ...]:
        """Functions that the options name."""
        named = (getattr(self, key, None) for key in ("augment", "loss", "student"))
        return tuple(name for name in named if isinstance(name, str) and ":" in name)

    @abstractmethod
    def _loss(self, context: Context) -> Loss:
        """What training makes small."""

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The trained module, in evaluation mode.

        Raises:
            ConfigError: when data, labels or options do not fit, or the loss is not finite.
        """
        return self._trained(training.duplicate(artifact.torch_module), artifact, context)

    def _trained(
        self, module: torch.nn.Module, artifact: Artifact, context: Context, **facts: Any
    ) -> Artifact:
        """Train the module, which is this step's own, in place."""
        rows = Rows.of(context.data.training())
        outcome = training.Training(
            module=module,
            forward=functools.partial(training.forward, names=names(context.recipe.model)),
            loss=self._loss(context),
            rows=rows,
            settings=self._settings(rows, context.recipe.seed),
            scratch=context.scratch,
            tell=context.tell,
            augment=self._augment(context),
            after_step=keep_zeros(module, artifact.facts),
        ).run()
        entry = {"step": self.name, **facts, **outcome.facts}
        before = artifact.facts.get("training", [])
        return Artifact(
            form=Form.TORCH, module=module, facts={**artifact.facts, "training": [*before, entry]}
        )

    def _settings(self, rows: Rows, seed: int) -> training.Settings:
        """The options as the loop wants them."""
        steps = self.steps or DEFAULT_STEPS
        if self.epochs is not None:
            kept, _ = rows.split(self.held_back, seed=seed)
            steps = max(1, round(self.epochs * kept.steps_per_epoch(self.batch_size)))
        return training.Settings(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            held_back=self.held_back,
            patience=self.patience,
            seed=seed,
        )

    def _augment(self, context: Context) -> Any:
        """The recipe's function, if it names one."""
        if self.augment is None:
            return None
        return context.source.function(self.augment, key=f"{self.name}.augment")

    def _output(self, context: Context) -> str:
        """The output that the loss reads.

        Raises:
            ConfigError: when the model has no such output.
        """
        return chosen_output(self.output, context.recipe.model, key=f"{self.name}.output")

    def _named_loss(self, name: str, context: Context) -> Loss:
        """A loss with the labels: ``cross_entropy``, ``mse``, or a function of the recipe."""
        return labelled_loss(name, context, self.output, key=self.name)

    def _teacher(self, context: Context) -> Any:
        """The original's outputs for a batch, without gradients."""
        import torch

        original = training.duplicate(context.original.module).eval().requires_grad_(False)
        given = names(context.recipe.model)

        def outputs(batch: Tensors) -> Tensors:
            with torch.no_grad():
                return training.forward(original, batch, names=given)

        return outputs


def labelled_loss(name: str, context: Context, output: str | None, *, key: str) -> Loss:
    """A loss with the labels: ``cross_entropy``, ``mse``, or a function of the recipe.

    Args:
        name: as in the recipe.
        context: of the step.
        output: that the loss reads; the first when None.
        key: the step, for messages.
    """
    if ":" in name:
        return losses.by_user(context.source.function(name, key=f"{key}.loss"), name)
    chosen = chosen_output(output, context.recipe.model, key=f"{key}.output")
    return losses.cross_entropy(chosen) if name == "cross_entropy" else losses.mse(chosen)


def chosen_output(output: str | None, model: Model, *, key: str) -> str:
    """The named output, or the first.

    Raises:
        ConfigError: when the model has no such output.
    """
    known = names(model).outputs
    if output is not None and output not in known:
        raise ConfigError(
            f"{key}: {output}, must be one of {', '.join(known)}.",
            hint="Take the names from model.outputs.",
        )
    return output or known[0]


def names(model: Model) -> training.Names:
    """The recipe's names, in order."""
    return training.Names(
        inputs=tuple(tensor.name for tensor in model.inputs),
        outputs=tuple(tensor.name for tensor in model.outputs),
    )
