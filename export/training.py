"""One plain training loop for every step that trains: seeded, resumable, and strict about NaN.

A run that was killed and started again gives bit for bit what an undisturbed run gives, on the
same machine with the same number of threads: a checkpoint holds the weights, the optimizer, the
schedule, the best weights so far and every random state, and the rows of a step follow from its
number (see ``training_data``).
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from conch.errors import ConfigError
from conch.failpoint import failpoint
from export.checkpoint import Checkpoint
from export.training_data import Rows

if TYPE_CHECKING:
    import torch

    from export.losses import Loss, Tensors
    from export.steps.base import Tell

CHECKS = 8
"""How often the rows held back are judged in a run, besides before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        steps: minibatches.
        batch_size: rows a minibatch.
        learning_rate: the highest of the schedule.
        schedule: ``one_cycle`` rises for 30 % and falls to nearly zero, ``cosine`` only falls.
        optimizer: ``adamw`` applies the weight decay beside the gradient.
        weight_decay: pull towards zero.
        held_back: fraction of the rows that is judged and never trained on; with 0 the last
            weights are taken.
        patience: checks without progress after which training stops; None runs all steps.
        seed: of everything random.
        checkpoint_s: seconds between checkpoints, at least.
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    held_back: float = 0.05
    patience: int | None = None
    seed: int = 0
    checkpoint_s: float = 10.0


@dataclass(slots=True, kw_only=True)
class _State:
    """Where a run is, besides what the module, the optimizer and the schedule hold."""

    step: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_step: int = 0
    best_loss: float = math.inf
    first_loss: float = math.nan
    last_loss: float = math.nan
    stale: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a training; the same for a run that was killed and resumed.

    Attributes:
        steps: that were made.
        best_step: after which the weights were taken.
        loss_before, loss_after: of the rows held back, NaN when there are none.
        rows, held_back_rows: trained on and judged.
    """

    steps: int
    best_step: int
    loss_before: float
    loss_after: float
    rows: int
    held_back_rows: int

    @property
    def facts(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "steps": self.steps,
            "best_step": self.best_step,
            "rows": self.rows,
            "held_back_rows": self.held_back_rows,
            **{
                key: round(value, 6) if math.isfinite(value) else None
                for key, value in (
                    ("held_back_loss_before", self.loss_before),
                    ("held_back_loss_after", self.loss_after),
                )
            },
        }


@dataclass(kw_only=True)
class Training:
    """One training of one module, in place.

    Attributes:
        module: trained in place; afterwards in evaluation mode, with the best weights.
        forward: outputs of the module for a batch, by name.
        loss: see ``losses``.
        rows: training rows, of which some are held back.
        settings: how to train.
        scratch: where the checkpoint is kept.
        tell: told of the progress.
        augment: changes a minibatch (never the rows held back) before the module sees it.
        after_step: called after each change of the weights, e.g. to keep zeros zero.
    """

    module: torch.nn.Module
    forward: Callable[[torch.nn.Module, Tensors], Tensors]
    loss: Loss
    rows: Rows
    settings: Settings
    scratch: Path
    tell: Tell
    augment: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    after_step: Callable[[], None] | None = None

    def run(self) -> Outcome:
        """Train, from the checkpoint when there is one.

        Raises:
            ConfigError: when the loss is not finite, no weight can be trained, or rows are missing.
            RepositoryError: when a checkpoint cannot be written.
        """
        import torch

        check_finite(self.module)
        settings = self.settings
        training, held = self.rows.split(settings.held_back, seed=settings.seed)
        self._seed()
        self._layout(torch.channels_last)
        optimizer = self._optimizer()
        schedule = self._schedule(optimizer)
        checkpoint = Checkpoint(
            self.scratch, identity=self._identity, every_s=settings.checkpoint_s
        )
        if (saved := checkpoint.read()) is not None:
            state = self._resumed(saved, optimizer, schedule)
        else:
            state = _State()
            self._judge(state, held)
        every = max(1, settings.steps // CHECKS)
        while state.step < settings.steps:
            if settings.patience is not None and state.stale >= settings.patience:
                break
            self._step(state, training, optimizer)
            schedule.step()
            state.step += 1
            if state.step % every == 0 or state.step == settings.steps:
                self._judge(state, held)
            if checkpoint.is_due:
                checkpoint.write(self._saved(state, optimizer, schedule))
            self.tell(state.step, settings.steps, f"loss {state.last_loss:.4g}")
            failpoint("training.stepped")
        if state.best is not None:
            self.module.load_state_dict(state.best)
        self._layout(torch.contiguous_format)
        self.module.eval()
        self.module.zero_grad(set_to_none=True)
        return Outcome(
            steps=state.step,
            best_step=state.best_step if len(held) else state.step,
            loss_before=state.first_loss,
            loss_after=state.best_loss if len(held) else math.nan,
            rows=len(training),
            held_back_rows=len(held),
        )

    def _step(self, state: _State, rows: Rows, optimizer: torch.optim.Optimizer) -> None:
        """One minibatch: forward, backward, change of the weights."""
        settings = self.settings
        batch = rows.minibatch(state.step, batch_size=settings.batch_size, seed=settings.seed)
        if self.augment is not None:
            batch = self.augment(batch)
        self.module.train()
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.forward(self.module, batch), batch)
        state.last_loss = loss.item()
        if not math.isfinite(state.last_loss):
            raise ConfigError(
                f"training: the loss is {state.last_loss} at step {state.step + 1} of "
                f"{settings.steps}, it must stay finite.",
                hint=f"Lower learning_rate (now {settings.learning_rate:g}), or look for NaN in "
                "data.training.",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if self.after_step is not None:
            self.after_step()

    def _judge(self, state: _State, held: Rows) -> None:
        """The loss of the rows held back, and the best weights so far."""
        if not len(held):
            return
        import torch

        self.module.eval()
        total = 0.0
        with torch.no_grad():
            for batch in held.in_order(self.settings.batch_size):
                count = len(next(iter(batch.values())))
                total += count * self.loss(self.forward(self.module, batch), batch).item()
        loss = total / len(held)
        if not math.isfinite(loss):
            raise ConfigError(
                f"training: the loss of the rows held back is {loss} after {state.step} of "
                f"{self.settings.steps} steps, it must stay finite.",
                hint=f"Lower learning_rate (now {self.settings.learning_rate:g}), or look for NaN "
                "in data.training and in what the model gives.",
            )
        if math.isnan(state.first_loss):
            state.first_loss = loss
        if loss < state.best_loss:
            state.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
            state.best_step, state.best_loss, state.stale = state.step, loss, 0
        else:
            state.stale += 1

    def _seed(self) -> None:
        """Start every random source from the seed."""
        import torch

        random.seed(self.settings.seed)
        np.random.seed(self.settings.seed)
        torch.manual_seed(self.settings.seed)

    def _layout(self, layout: torch.memory_format) -> None:
        """Convolutions train about a fifth faster on a CPU with channels last."""
        import torch

        if any(isinstance(part, torch.nn.Conv2d) for part in self.module.modules()):
            self.module.to(memory_format=layout)  # type: ignore[call-overload]

    def _optimizer(self) -> torch.optim.Optimizer:
        """Over every weight that can be trained."""
        import torch

        weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError(
                "training: no weight of the model can be trained, all are frozen.",
                hint="Call module.requires_grad_(True) in the factory.",
            )
        kind = torch.optim.AdamW if self.settings.optimizer == "adamw" else torch.optim.Adam
        return kind(
            weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )

    def _schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rate of each step."""
        from torch.optim import lr_scheduler

        settings = self.settings
        if settings.schedule == "one_cycle":
            # One step more than is made: the schedule is advanced after the last one, too.
            return lr_scheduler.OneCycleLR(
                optimizer, max_lr=settings.learning_rate, total_steps=settings.steps + 1
            )
        if settings.schedule == "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.steps)
        return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)

    @property
    def _identity(self) -> str:
        """What a checkpoint must agree in to be resumed.

        Other numbers of threads sum in another order.
        """
        import torch

        shapes = [(key, tuple(value.shape)) for key, value in self.module.state_dict().items()]
        return repr((self.settings, len(self.rows), shapes, torch.get_num_threads()))

    def _saved(
        self,
        state: _State,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        return {
            "progress": {name: getattr(state, name) for name in _State.__slots__},
            "module": self.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }

    def _resumed(
        self,
        saved: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> _State:
        """Go on from what ``_saved`` gave."""
        self.module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        return _State(**saved["progress"])


def check_finite(module: torch.nn.Module) -> None:
    """Refuse a module whose weights hold NaN or infinity: no step could mend them.

    Raises:
        ConfigError: with the first tensors at fault.
    """
    import torch

    faults = []
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            count = int((~torch.isfinite(tensor)).sum())
            if count:
                faults.append(f"{name} ({count} of {tensor.numel()} values)")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"model weights: {', '.join(faults[:3])}{more} hold NaN or infinity, "
            "all must be finite.",
            hint="Check the file that the factory loads, or the step before.",
        )


def forward(module: torch.nn.Module, batch: Tensors, *, names: Names) -> dict[str, torch.Tensor]:
    """The module's outputs by name, with gradients where they are on.

    Args:
        module: its forward takes the inputs in the recipe's order.
        batch: at least the inputs, each ``[batch, ...]``; labels are left alone.
        names: of inputs and outputs, in order.
    """
    import torch

    result = module(*(_laid_out(batch[name]) for name in names.inputs))
    if isinstance(result, torch.Tensor):
        values = [result]
    else:
        values = list(result.values() if isinstance(result, Mapping) else result)
    return dict(zip(names.outputs, values, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The recipe's names of inputs and outputs, in the order of ``forward``."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def duplicate(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that may be changed: the original stays the reference of every check."""
    return copy.deepcopy(module)


def _laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """Pictures with channels last, as ``Training`` lays out the weights."""
    import torch

    if tensor.ndim == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
