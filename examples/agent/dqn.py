"""Double DQN with a dueling network, n-step returns and a slowly following copy.

Sources: V. Mnih et al., "Human-level control through deep reinforcement learning", 2015;
H. van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning", 2016;
T. Lillicrap et al., "Continuous control with deep reinforcement learning", 2016 (the copy);
R. Sutton, A. Barto, "Reinforcement Learning", 2nd edition, 2018, section 7.1 (n steps).
"""

from __future__ import annotations

import copy
import sys
import time
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import play

SEED = 0
ENVIRONMENTS = 16
DISCOUNT = 0.99
FALL = -100.0
"""The only reward, when the pole falls. A point a step would give the same worths plus 100, and
take long to learn: a network starts near 0, which is where a good state's worth lies here."""
N_STEP = 5
MEMORY = 50_000
WARM_UP = 2_000
BATCH = 128
LEARNING_RATE = 5e-4
UPDATES_A_STEP = 2
UPDATES = 20_000
EXPLORING_UPDATES = 4_000
FOLLOW = 0.005
QUADRATIC_UP_TO = 10.0
"""Of the Huber loss; 1, as is usual, forgot good policies again and again."""
CHECK_EVERY = 1_000
GOOD_CHECKS = 3

Transition = tuple[NDArray[Any], ...]


class Memory:
    """The last transitions, in rings: observation, action, reward, observation after, discount."""

    def __init__(self, size: int) -> None:
        """Room for ``size`` transitions."""
        self._rings: Transition = (
            np.zeros((size, 4), np.float32),
            np.zeros((size, 1), np.int64),
            np.zeros((size, 1), np.float32),
            np.zeros((size, 4), np.float32),
            np.zeros((size, 1), np.float32),
        )
        self._size = size
        self.count = 0

    def add(self, transition: Transition) -> None:
        """Keep some transitions; each array is ``[n, ...]``."""
        at = (self.count + np.arange(len(transition[0]))) % self._size
        for ring, values in zip(self._rings, transition, strict=True):
            ring[at] = values
        self.count += len(at)

    def sample(self, random: np.random.Generator) -> list[Tensor]:
        """``BATCH`` of them, drawn evenly."""
        at = random.integers(0, min(self.count, self._size), BATCH)
        return [torch.from_numpy(ring[at]) for ring in self._rings]


class Player:
    """Plays training episodes with exploration; gives n-step transitions."""

    def __init__(self, random: np.random.Generator) -> None:
        """Start ``ENVIRONMENTS`` episodes."""
        self._random = random
        self._environment = play.make(ENVIRONMENTS)
        self._observation, _ = self._environment.reset(seed=play.SEEDS["training"])
        self._restarts = np.zeros(ENVIRONMENTS, dtype=bool)
        self._recent: deque[Transition] = deque(maxlen=N_STEP)

    def step(self, network: nn.Module, exploration: float) -> Transition | None:
        """Play one step; the transitions that began ``N_STEP`` steps ago, once there are any."""
        before = self._observation
        with torch.inference_mode():
            action = network(torch.from_numpy(before)).argmax(dim=1).numpy()
        drawn = self._random.random(ENVIRONMENTS) < exploration
        action[drawn] = self._random.integers(0, 2, drawn.sum())
        after, _, fallen, cut, _ = self._environment.step(action)
        self._recent.append((before, action, after, fallen, cut, self._restarts))
        self._observation, self._restarts = after, fallen | cut
        return n_steps(list(self._recent)) if len(self._recent) == N_STEP else None


def n_steps(recent: list[Transition]) -> Transition:
    """Some consecutive steps of all environments as one transition each.

    An episode that ends in between ends the transition. The step on which an environment restarts
    itself is none of the game, and gives no transition.

    Args:
        recent: observation, action, observation after, fallen, cut, restarts; ``[n, ...]`` each.
    """
    observation, action, last, _, _, restarts = recent[0]
    last = last.copy()
    count = len(action)
    reward, discount = np.zeros(count, np.float32), np.ones(count, np.float32)
    going = np.ones(count, dtype=bool)
    for _, _, after, fallen, cut, _ in recent:
        last[going] = after[going]
        reward[going & fallen] = FALL * discount[going & fallen]
        discount[going] *= np.where(fallen[going], 0, np.float32(DISCOUNT))
        going &= ~(fallen | cut)
    found = (observation, action[:, None], reward[:, None], last, discount[:, None])
    return tuple(values[~restarts] for values in found)


def train(network: nn.Module) -> None:
    """Train in place, on one thread; tells each check on stderr.

    The policy is the slow copy. It plays the validation episodes every ``CHECK_EVERY`` updates;
    the best one is kept, and ``GOOD_CHECKS`` full returns in a row are enough.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    slow = copy.deepcopy(network).requires_grad_(False)
    best, best_state = -1.0, slow.state_dict()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    memory, player = Memory(MEMORY), Player(random)
    start, update, good = time.monotonic(), 0, 0
    while update < UPDATES and good < GOOD_CHECKS:
        exploration = max(0.05, 1 - update / EXPLORING_UPDATES)
        if (transition := player.step(network, exploration)) is not None:
            memory.add(transition)
        if memory.count < WARM_UP:
            continue
        for _ in range(UPDATES_A_STEP):
            improve(network, slow, optimizer, memory.sample(random))
        update += UPDATES_A_STEP
        if update % CHECK_EVERY == 0:
            value = float(play.play(predictor(slow), seed=play.SEEDS["validation"])[0].mean())
            good = good + 1 if value == play.STEPS else 0
            if value >= best:
                best, best_state = value, copy.deepcopy(slow.state_dict())
            print(
                f"  training DQN on CartPole: update {update} of at most {UPDATES}, "
                f"mean return {value:.0f}, {time.monotonic() - start:.0f} s",
                file=sys.stderr,
            )
    network.load_state_dict(best_state)
    torch.set_num_threads(threads)


def improve(
    network: nn.Module, slow: nn.Module, optimizer: torch.optim.Optimizer, batch: list[Tensor]
) -> None:
    """One update by double DQN's target; the slow copy follows by ``FOLLOW``."""
    observation, action, reward, last, discount = batch
    with torch.no_grad():
        choice = network(last).argmax(dim=1, keepdim=True)
        goal = reward + discount * slow(last).gather(1, choice)
    loss = nn.functional.smooth_l1_loss(
        network(observation).gather(1, action), goal, beta=QUADRATIC_UP_TO
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(slow.parameters()), list(network.parameters()), FOLLOW)


def predictor(network: nn.Module) -> play.Predict:
    """The network as what ``play`` asks."""

    def predict(batch: Any) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            return {"q": network(torch.from_numpy(batch["observation"])).numpy()}

    return predict
