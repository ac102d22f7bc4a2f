"""Training rows on the CPU: held back, shuffled and cut into minibatches, by step number alone.

The minibatch of a step is a function of the seed and the step, so a training that was killed goes
on with exactly the rows that it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conch.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

TARGET = "target"
"""The key of the labels in a training batch."""

MAX_HELD_BACK = 2000
"""Rows that are held back at most: more would cost time and tell little."""

_SEEDS_APART = 1_000_003
"""A prime, so that no two pairs of seed and epoch that occur share a random stream."""


class Rows:
    """Rows in groups of equal shapes: texts of different lengths never share a minibatch."""

    def __init__(self, groups: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """``groups``: key → tensor ``[rows, ...]``; rows of a group have one shape."""
        self._groups = [dict(group) for group in groups]
        self._planned: tuple[tuple[int, ...], list[tuple[int, torch.Tensor]]] | None = None

    @classmethod
    def of(cls, batches: Sequence[Mapping[str, NDArray[Any]]]) -> Rows:
        """The rows of all batches; batches with equal shapes behind the batch axis are joined."""
        import torch

        parts: dict[tuple[Any, ...], list[Mapping[str, NDArray[Any]]]] = {}
        for batch in batches:
            shape = tuple((key, batch[key].shape[1:]) for key in sorted(batch))
            parts.setdefault(shape, []).append(batch)
        joined = [
            {key: np.concatenate([part[key] for part in same]) for key in same[0]}
            for same in parts.values()
        ]
        return cls([{k: torch.from_numpy(v) for k, v in group.items()} for group in joined])

    def __len__(self) -> int:
        """How many rows there are."""
        return sum(_count(group) for group in self._groups)

    @property
    def has_target(self) -> bool:
        """Whether every row has a label."""
        return all(TARGET in group for group in self._groups)

    def split(self, fraction: float, *, seed: int) -> tuple[Rows, Rows]:
        """Rows to train on, and rows held back: about ``fraction`` of them, spread evenly.

        Raises:
            ConfigError: when a side would be empty although ``fraction`` is not zero.
        """
        import torch

        wanted = min(fraction, MAX_HELD_BACK / max(1, len(self)))
        kept, held, owed = [], [], 0.0
        for index, group in enumerate(self._groups):
            random = torch.Generator().manual_seed(seed * _SEEDS_APART + index)
            order = torch.randperm(_count(group), generator=random)
            owed += wanted * len(order)  # what small groups owe is taken from a later one
            cut = min(len(order), round(owed))
            owed -= cut
            kept.append({key: tensor[order[cut:]] for key, tensor in group.items()})
            held.append({key: tensor[order[:cut]] for key, tensor in group.items()})
        training, apart = Rows(_filled(kept)), Rows(_filled(held))
        if len(training) == 0 or (fraction > 0 and len(apart) == 0):
            raise ConfigError(
                f"data.training: {len(self)} rows, too few to hold back {fraction:.0%} of them.",
                hint="Give more rows, or write held_back: 0.",
            )
        return training, apart

    def steps_per_epoch(self, batch_size: int) -> int:
        """Minibatches in one pass over the rows."""
        return sum(_cuts(_count(group), batch_size) for group in self._groups)

    def minibatch(self, step: int, *, batch_size: int, seed: int) -> dict[str, torch.Tensor]:
        """The rows of training step ``step`` (from 0), each ``[at most batch_size, ...]``."""
        per_epoch = self.steps_per_epoch(batch_size)
        wanted = (step // per_epoch, batch_size, seed)
        if self._planned is None or self._planned[0] != wanted:
            self._planned = (wanted, self._plan(*wanted))
        index, chosen = self._planned[1][step % per_epoch]
        return {key: tensor[chosen] for key, tensor in self._groups[index].items()}

    def in_order(self, batch_size: int) -> list[dict[str, torch.Tensor]]:
        """All rows, in batches of at most ``batch_size``."""
        return [
            {key: tensor[start : start + batch_size] for key, tensor in group.items()}
            for group in self._groups
            for start in range(0, _count(group), batch_size)
        ]

    def _plan(self, epoch: int, batch_size: int, seed: int) -> list[tuple[int, torch.Tensor]]:
        """The minibatches of one epoch as (group, row numbers), shuffled."""
        import torch

        random = torch.Generator().manual_seed(seed * _SEEDS_APART + epoch)
        cut = []
        for index, group in enumerate(self._groups):
            order = torch.randperm(_count(group), generator=random)
            full = _cuts(len(order), batch_size)
            cut += [(index, order[i * batch_size : (i + 1) * batch_size]) for i in range(full)]
        return [cut[int(place)] for place in torch.randperm(len(cut), generator=random)]


def _count(group: Mapping[str, torch.Tensor]) -> int:
    """Rows of a group."""
    return len(next(iter(group.values())))


def _cuts(rows: int, batch_size: int) -> int:
    """Minibatches from so many rows: a rest is left for another epoch, unless it is all there is.

    A rest may be one row, of which batch normalisation cannot learn.
    """
    return max(1, rows // batch_size)


def _filled(groups: Sequence[Mapping[str, torch.Tensor]]) -> list[Mapping[str, torch.Tensor]]:
    """The groups that have rows."""
    return [group for group in groups if _count(group)]
