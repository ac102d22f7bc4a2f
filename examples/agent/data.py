"""Observations that the teacher meets when it plays; its own worths are what a student learns."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dqn, model, play

Batch = dict[str, NDArray[Any]]

BATCH_SIZE = 256
NOISES = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Fractions of random actions: a student also meets states that the teacher avoids."""
EPISODES_EACH = 40
MATTERS = 0.2
"""Where the worths of the two actions differ by less, of the 100 that a fall costs, either is fine:
agreement there says nothing about a policy."""


def training() -> list[Batch]:
    """Tens of thousands of observations in mixed order; no labels, the teacher gives them."""
    return _batches(_covered(play.SEEDS["coverage"]))


def calibration() -> list[Batch]:
    """1,024 of the training observations."""
    return training()[:4]


def evaluation() -> list[Batch]:
    """10,240 observations of other episodes in which the decision matters."""
    met = _covered(play.SEEDS["evaluation"])
    q = dqn.predictor(model.load())({"observation": met})["q"]
    return _batches(met[np.abs(q[:, 0] - q[:, 1]) >= MATTERS])[:40]


@functools.cache
def _covered(seed: int) -> NDArray[np.float32]:
    """Observations ``[n, 4]`` of episodes with each amount of noise, in mixed order."""
    predict = dqn.predictor(model.load())
    met = [
        play.play(predict, seed=seed * 100 + number, episodes=EPISODES_EACH, noise=noise)[1]
        for number, noise in enumerate(NOISES)
    ]
    everything = np.concatenate(met)
    return everything[np.random.default_rng(seed).permutation(len(everything))]


def _batches(observations: NDArray[np.float32]) -> list[Batch]:
    """The observations in whole batches, under the model's input name."""
    return [
        {"observation": observations[start : start + BATCH_SIZE]}
        for start in range(0, len(observations) - BATCH_SIZE + 1, BATCH_SIZE)
    ]
