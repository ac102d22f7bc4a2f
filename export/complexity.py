"""How much a module computes and holds: what reports call MACs and parameters."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """What one forward pass costs.

    Attributes:
        macs: multiply-accumulate operations of convolutions, matrix products and attention, for
            one row of the batch; normalisation and activations are left out, as is the custom.
        params: numbers in the parameters; buffers are left out.
    """

    macs: int
    params: int


def count(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> Complexity:
    """What the module costs for one row, at the example's sizes.

    Operators are counted as they are executed, so attention and functional calls count too
    (torch-pruning's counter sees only modules: it misses the attention of a transformer).

    Args:
        module: left as it was, in its mode; its forward runs once, in evaluation mode.
        example: its inputs, each ``[batch, ...]``.

    Source:
        torch.utils.flop_counter; one multiply-accumulate is two of its operations.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    modes = {part: part.training for part in module.modules()}
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), _without_fused_kernels(), counter:
            module.eval()(*example)
    finally:
        for part, mode in modes.items():
            part.training = mode
    rows = max(1, example[0].shape[0])
    return Complexity(
        macs=counter.get_total_flops() // (2 * rows),
        params=sum(parameter.numel() for parameter in module.parameters()),
    )


@contextlib.contextmanager
def _without_fused_kernels() -> Iterator[None]:
    """Attention, LSTMs and whole encoder layers as the matrix products that the counter knows."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():  # on a flag that only matters for Intel's GPUs
            warnings.simplefilter("ignore", UserWarning)
            with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
