"""What training makes small: functions of a module's outputs and of its batch.

Sources: G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (soft targets);
F. Tung and G. Mori, "Similarity-Preserving Knowledge Distillation", 2019 (similarity matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from conch.errors import ConfigError
from export.training_data import TARGET

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]
    Loss = Callable[[Tensors, Tensors], torch.Tensor]
    """``(outputs, batch) -> scalar``; both by the recipe's names, the batch with its labels."""


def cross_entropy(output: str, *, smoothing: float = 0.0) -> Loss:
    """Scores ``[batch, classes]`` (or ``[batch, ..., classes]``) against class numbers."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        from torch.nn import functional

        scores, target = outputs[output], _target(batch)
        if target.is_floating_point() or target.shape != scores.shape[:-1]:
            raise ConfigError(
                f"loss cross_entropy: target is {_seen(target)}, must hold one class number for "
                f"each row of {output} {list(scores.shape)}.",
                hint="Give int64 class numbers, or use loss: mse.",
            )
        classes = scores.shape[-1]
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise ConfigError(
                f"loss cross_entropy: target holds classes {low} to {high}, "
                f"{output} has the classes 0 to {classes - 1}.",
                hint="Correct the labels of data.training.",
            )
        return functional.cross_entropy(
            scores.reshape(-1, classes), target.reshape(-1).long(), label_smoothing=smoothing
        )

    return loss


def mse(output: str) -> Loss:
    """Mean squared difference to the labels, which have the output's shape."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        from torch.nn import functional

        target = _target(batch)
        if target.shape != outputs[output].shape:
            raise ConfigError(
                f"loss mse: target is {_seen(target)}, must have the shape of {output}, "
                f"{list(outputs[output].shape)}.",
                hint="Reshape the labels of data.training.",
            )
        return functional.mse_loss(outputs[output], target.to(outputs[output].dtype))

    return loss


def by_user(function: Callable[[Tensors, torch.Tensor | None], torch.Tensor], name: str) -> Loss:
    """A function of the recipe: ``(outputs, target) -> scalar``; target is None without labels."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        import torch

        value = function(outputs, batch.get(TARGET))
        if not isinstance(value, torch.Tensor) or value.ndim:
            seen = _seen(value) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ConfigError(
                f"loss {name}: gave {seen}, must give one number as a tensor.",
                hint="End with .mean().",
            )
        return value

    return loss


def soft_targets(
    output: str, teacher: Callable[[Tensors], Tensors], *, temperature: float, alpha: float
) -> Loss:
    """``alpha`` T² KL(teacher ÷ T, student ÷ T) + (1 − ``alpha``) cross entropy with the labels.

    Without labels the first part is all. T² keeps the gradients' size as T grows: at T = 4 those of
    the soft part alone would be 16 times smaller.
    """
    hard = cross_entropy(output)

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        from torch.nn import functional

        wanted, got = teacher(batch)[output], outputs[output]
        _same_shape(output, wanted, got)
        classes = got.shape[-1]
        soft = temperature**2 * functional.kl_div(
            functional.log_softmax(got.reshape(-1, classes) / temperature, dim=-1),
            functional.log_softmax(wanted.reshape(-1, classes) / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        if TARGET not in batch:
            return soft
        return alpha * soft + (1 - alpha) * hard(outputs, batch)

    return loss


def embeddings(output: str, teacher: Callable[[Tensors], Tensors]) -> Loss:
    """1 − cosine to the teacher's vector, plus the MSE of both matrices of pairwise cosines."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        from torch.nn import functional

        wanted, got = teacher(batch)[output], outputs[output]
        _same_shape(output, wanted, got)
        wanted = functional.normalize(wanted.flatten(1), dim=1)
        got = functional.normalize(got.flatten(1), dim=1)
        apart = 1 - (wanted * got).sum(dim=1).mean()
        return apart + functional.mse_loss(got @ got.T, wanted @ wanted.T)

    return loss


def same_outputs(teacher: Callable[[Tensors], Tensors]) -> Loss:
    """Mean squared difference to the teacher, added over all floating-point outputs."""

    def loss(outputs: Tensors, batch: Tensors) -> torch.Tensor:
        import torch
        from torch.nn import functional

        wanted = teacher(batch)
        parts = []
        for name, got in outputs.items():
            if got.is_floating_point():
                _same_shape(name, wanted[name], got)
                parts.append(functional.mse_loss(got, wanted[name]))
        return torch.stack(parts).sum()

    return loss


def _target(batch: Tensors) -> torch.Tensor:
    """The labels.

    Raises:
        ConfigError: when the training data has none.
    """
    if TARGET not in batch:
        raise ConfigError(
            f"data.training: no labels under the key {TARGET}, but the loss compares with them.",
            hint="Add them to each batch, or distil from the original, which needs no labels.",
        )
    return batch[TARGET]


def _same_shape(output: str, wanted: torch.Tensor, got: torch.Tensor) -> None:
    """Refuse to compare outputs of different shapes."""
    if wanted.shape != got.shape:
        raise ConfigError(
            f"output {output}: the student gives {list(got.shape)}, the original "
            f"{list(wanted.shape)}; they must be equal.",
            hint="Correct the student's last layer.",
        )


def _seen(tensor: torch.Tensor) -> str:
    """Type and shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
