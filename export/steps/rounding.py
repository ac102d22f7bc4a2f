"""Layers that see 8-bit values while they train: attached before, taken off after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from conch.errors import ConfigError

INPUT = "conch_input_rounding"
OUTPUT = "conch_output_rounding"
MOMENTUM = 0.05
"""Share of a new minibatch in a running range."""


class RoundedWeight(nn.Module):
    """Weights ``[out, ...]`` rounded to signed 8 bits, one symmetric scale for each output."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weights as INT8 would hold them, in floating point."""
        largest = weight.detach().abs().flatten(1).amax(dim=1)
        scale = (largest / 127).clamp(min=1e-12)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class RoundedValue(nn.Module):
    """A layer's input or output rounded to 8 bits, by the running range of what it has seen."""

    low: Tensor
    high: Tensor

    def __init__(self, *, signed: bool) -> None:
        """``signed``: symmetric around zero, without a zero point."""
        super().__init__()
        self.signed = signed
        self.observing = False
        self.register_buffer("low", torch.tensor(float("nan")))
        self.register_buffer("high", torch.tensor(float("nan")))

    def forward(self, value: Tensor) -> Tensor:
        """The value as INT8 would hold it, in floating point."""
        if self.training or self.observing:
            self._observe(value.detach())
        if self.observing:
            return value
        if self.signed:
            scale = torch.maximum(-self.low, self.high) / 127
            zero, smallest, largest = torch.zeros((), dtype=torch.int32), -127, 127
        else:
            scale, smallest, largest = (self.high - self.low) / 255, 0, 255
            zero = (-self.low / scale.clamp(min=1e-12)).round().clamp(0, 255).int()
        return torch.fake_quantize_per_tensor_affine(
            value, scale.clamp(min=1e-12), zero, smallest, largest
        )

    def _observe(self, value: Tensor) -> None:
        """Move the range towards that of this value; zero is always inside."""
        low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
        if torch.isnan(self.low):
            self.low.copy_(low)
            self.high.copy_(high)
        elif self.observing:  # before training: the widest, as static quantization will see it
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)


def attach(module: nn.Module, *, signed: bool, ignore: Sequence[str]) -> list[str]:
    """Have the convolutions and linear layers see rounded values; gives their names.

    Raises:
        ConfigError: when ``ignore`` matches nothing, or no layer is left.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    layers = {name: part for name, part in module.named_modules() if isinstance(part, kinds)}
    if unknown := [one for one in ignore if not any(fnmatchcase(name, one) for name in layers)]:
        raise ConfigError(
            f"qat.ignore: {', '.join(unknown)} matches no layer; there are {', '.join(layers)}.",
            hint="Correct the pattern.",
        )
    chosen = {n: p for n, p in layers.items() if not any(fnmatchcase(n, one) for one in ignore)}
    if not chosen:
        raise ConfigError(
            f"qat: no layer to quantize among {len(layers)} convolutions and linear layers.",
            hint="Shorten qat.ignore, or leave the step out.",
        )
    for layer in chosen.values():
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
        layer.add_module(INPUT, RoundedValue(signed=signed))
        layer.register_forward_pre_hook(_rounded)
        # Behind a convolution export folds normalisation and activation first: what is rounded
        # then is the next layer's input. A matrix product is rounded itself, and so are the
        # outliers that transformers add to their residual stream.
        if isinstance(layer, nn.Linear):
            layer.add_module(OUTPUT, RoundedValue(signed=signed))
            layer.register_forward_hook(_rounded_output)
    return list(chosen)


def detach(module: nn.Module) -> None:
    """Take the rounding off again; the trained weights stay as they are."""
    for layer in list(module.modules()):
        if hasattr(layer, INPUT):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            delattr(layer, INPUT)
            _remove(layer._forward_pre_hooks, _rounded)
            if hasattr(layer, OUTPUT):
                delattr(layer, OUTPUT)
                _remove(layer._forward_hooks, _rounded_output)


@contextlib.contextmanager
def observing(module: nn.Module) -> Iterator[None]:
    """Only watch ranges, round nothing."""
    inputs = [part for part in module.modules() if isinstance(part, RoundedValue)]
    for part in inputs:
        part.observing = True
    try:
        yield
    finally:
        for part in inputs:
            part.observing = False


def _rounded(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the layer is given, rounded."""
    return (getattr(layer, INPUT)(arguments[0]), *arguments[1:])


def _rounded_output(layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    """What the layer gives, rounded."""
    rounded: Tensor = getattr(layer, OUTPUT)(output)
    return rounded


def _remove(hooks: MutableMapping[int, Any], hook: Any) -> None:
    """Take one function out of a module's hooks."""
    for key in [key for key, one in hooks.items() if one is hook]:
        del hooks[key]
