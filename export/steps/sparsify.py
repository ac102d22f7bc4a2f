"""2:4 sparsity: of every four weights in a row two become zero. It pays on GPUs only.

Ampere and later GPUs multiply such weights up to twice as fast in TensorRT. ONNX Runtime stores and
multiplies the zeros like any number: neither the file nor its latency on a CPU gets smaller.

Source: A. Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from conch.errors import ConfigError
from export import training
from export.steps.base import Artifact, Context, Form, Step

if TYPE_CHECKING:
    import torch

FACT = "sparsity"


class Sparsify(Step):
    """Set the two smallest of every four weights to zero. GPU only: no gain on a CPU."""

    name: ClassVar[str] = "sparsify"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    pattern: Literal["2:4"] = Field(
        default="2:4", description="The only pattern that GPUs speed up; no gain on a CPU."
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="Names or patterns (`blocks.*`) of layers to leave dense."
    )

    @property
    def label(self) -> str:
        """Step and target."""
        return "sparsify 2:4 (GPU only)"

    def run(self, artifact: Artifact, context: Context) -> Artifact:  # noqa: ARG002
        """The module with zeros, which later training keeps.

        Raises:
            ConfigError: when no layer can be made sparse, or ``ignore`` names none.
        """
        import torch

        module = training.duplicate(artifact.torch_module)
        training.check_finite(module)
        layers = _layers(module)
        if unknown := [p for p in self.ignore if not any(fnmatchcase(n, p) for n in layers)]:
            raise ConfigError(
                f"sparsify.ignore: {', '.join(unknown)} matches no layer; there are "
                f"{', '.join(layers)}.",
                hint="Correct the pattern.",
            )
        chosen = {
            name: layer
            for name, layer in layers.items()
            if not any(fnmatchcase(name, pattern) for pattern in self.ignore)
            and layer.weight.shape[1] % 4 == 0
        }
        if not chosen:
            raise ConfigError(
                "sparsify: no layer can be made sparse; its input channels must be a multiple "
                "of 4.",
                hint="Leave the step out.",
            )
        with torch.no_grad():
            for layer in chosen.values():
                layer.weight.mul_(mask(layer.weight))
        zeros = sum(int((layer.weight == 0).sum()) for layer in chosen.values())
        total = sum(layer.weight.numel() for layer in _layers(module).values())
        fact = {
            "pattern": self.pattern,
            "layers": list(chosen),
            "zero_fraction": round(zeros / total, 4),
            "gains_on": "GPU (TensorRT on Ampere and later); none on a CPU",
        }
        return Artifact(form=Form.TORCH, module=module, facts={**artifact.facts, FACT: fact})


def mask(weight: torch.Tensor) -> torch.Tensor:
    """1 for the two largest magnitudes of every four neighbours along the input channels, else 0.

    Args:
        weight: ``[out, in, ...]`` with ``in`` a multiple of 4; TensorRT wants the pattern along
            the input channels, at every place of a convolution's kernel.
    """
    import torch

    rows = weight.detach().abs().movedim(1, -1)
    fours = rows.reshape(-1, 4)
    kept = torch.zeros_like(fours).scatter_(1, fours.topk(2, dim=1).indices, 1.0)
    return kept.reshape(rows.shape).movedim(-1, 1)


def keep_zeros(module: torch.nn.Module, facts: Mapping[str, Any]) -> Callable[[], None] | None:
    """What training calls after each step, so that a sparse module stays sparse.

    Args:
        module: of which the layers named in the facts have their zeros now.
        facts: of the artifact; without the fact of this step there is nothing to do.
    """
    import torch

    if FACT not in facts:
        return None
    layers = _layers(module)
    sparse = [_weight(layers[name]) for name in facts[FACT]["layers"]]
    masks = [(weight != 0).to(weight.dtype) for weight in sparse]

    def apply() -> None:
        with torch.no_grad():
            for weight, kept in zip(sparse, masks, strict=True):
                weight.mul_(kept)

    return apply


def _weight(layer: Any) -> torch.Tensor:
    """The weights that are trained; ``qat`` puts its rounding between them and ``layer.weight``."""
    rounded = getattr(layer, "parametrizations", None)
    weight: torch.Tensor = layer.weight if rounded is None else rounded.weight.original
    return weight


def _layers(module: torch.nn.Module) -> dict[str, Any]:
    """Convolutions and linear layers by name."""
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    return {name: part for name, part in module.named_modules() if isinstance(part, kinds)}
