"""Modules whose number of inputs is known only when a recipe is read."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

MOST_INPUTS = 6


class Positional(nn.Module, abc.ABC):
    """A module of up to ``MOST_INPUTS`` tensors.

    ``forward`` spells its arguments out: for ``*args`` torch.export wants the dynamic shapes nested
    in another way.
    """

    @abc.abstractmethod
    def compute(self, *given: Tensor) -> Any:
        """What the module gives for these inputs."""

    def forward(
        self,
        first: Tensor,
        second: Tensor | None = None,
        third: Tensor | None = None,
        fourth: Tensor | None = None,
        fifth: Tensor | None = None,
        sixth: Tensor | None = None,
    ) -> Any:
        """The inputs that are given, in order."""
        inputs = (first, second, third, fourth, fifth, sixth)
        return self.compute(*(one for one in inputs if one is not None))
