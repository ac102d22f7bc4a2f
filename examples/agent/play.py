"""CartPole-v1 played by a policy: many episodes side by side, one batch of observations a step.

Source: A. Barto, R. Sutton, C. Anderson, "Neuronlike adaptive elements that can solve difficult
learning control problems", 1983; as in Gymnasium: 1 point a step, at most 500 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

EPISODES = 100
STEPS = 500
SEEDS = {"metric": 1, "validation": 2, "training": 3, "coverage": 4, "evaluation": 5}
"""Each use has start states of its own: no policy is trained or chosen on those it is judged by."""

Predict = Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[Any]]]


def mean_return(predict: Predict) -> NDArray[np.float64]:
    """Returns ``[100]`` of greedy episodes, 0 to 500 each; their mean is the task metric.

    Args:
        predict: ``{"observation": float32 [batch, 4]}`` → ``{"q": float32 [batch, 2]}``.
    """
    returns, _ = play(predict, seed=SEEDS["metric"])
    return returns


def play(
    predict: Predict, *, seed: int, episodes: int = EPISODES, noise: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Play the episodes at once; those still running go to ``predict`` as one batch.

    Args:
        predict: as for ``mean_return``.
        seed: of the start states, and of the noise.
        episodes: how many.
        noise: fraction of actions that are drawn at random instead.

    Returns:
        The returns ``[episodes]``, and every observation that was met ``[n, 4]``.
    """
    environment = make(episodes)
    random = np.random.default_rng(seed)
    observation, _ = environment.reset(seed=seed)
    returns = np.zeros(episodes)
    running = np.arange(episodes)
    met = []
    while running.size:
        met.append(observation[running])
        action = np.zeros(episodes, dtype=np.int64)
        action[running] = predict({"observation": observation[running]})["q"].argmax(axis=1)
        drawn = random.random(episodes) < noise
        action[drawn] = random.integers(0, 2, drawn.sum())
        observation, reward, terminated, truncated, _ = environment.step(action)
        returns[running] += reward[running]
        running = running[~(terminated | truncated)[running]]
    return returns, np.concatenate(met)


def make(count: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """``count`` CartPole-v1 environments that are stepped together in numpy."""
    return gymnasium.make_vec(
        "CartPole-v1",
        num_envs=count,
        vectorization_mode="vector_entry_point",
        max_episode_steps=STEPS,
    )
