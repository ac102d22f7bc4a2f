"""A policy for CartPole: the teacher, trained on first use and kept in Conch's cache; the student.

Source: Z. Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", 2016.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from conch import paths

WIDTH = 256
SCALE = (2.4, 3.0, 0.21, 3.0)
"""Typical sizes of position, speed, angle and turn: one 8-bit scale then fits all four."""


class QNetwork(nn.Module):
    """Two hidden layers; the worth of the state and the advantage of each action, added up."""

    def __init__(self, width: int = WIDTH) -> None:
        """``width`` units in each hidden layer."""
        super().__init__()
        self.register_buffer("scale", torch.tensor(SCALE))
        self.body = nn.Sequential(
            nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.value = nn.Linear(width, 1)
        self.advantage = nn.Linear(width, 2)

    def forward(self, observation: Tensor) -> Tensor:
        """Observations ``float32 [batch, 4]`` → worth of each action ``float32 [batch, 2]``."""
        hidden = self.body(observation / self.scale)
        advantage = self.advantage(hidden)
        q: Tensor = self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)
        return q


def load() -> nn.Module:
    """The teacher: from the cache, else trained now (about a minute on one core)."""
    from . import dqn

    network = QNetwork()
    weights = _weights_path()
    if weights.is_file():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network.eval()
    dqn.train(network)
    weights.parent.mkdir(parents=True, exist_ok=True)
    temporary = weights.with_suffix(".part")
    torch.save(network.state_dict(), temporary)
    temporary.replace(weights)
    return network.eval()


def student() -> nn.Module:
    """A quarter of the teacher's width, untrained."""
    return QNetwork(WIDTH // 4)


def _weights_path() -> Path:
    """Where weights for exactly this code and these versions are kept."""
    digest = hashlib.sha256(
        f"{torch.__version__} {np.__version__} {gymnasium.__version__}".encode()
    )
    for name in ("model.py", "dqn.py", "play.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return paths.cache_dir() / "examples" / f"agent-{digest.hexdigest()[:16]}.pt"
