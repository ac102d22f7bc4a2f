"""A ResNet-8 for 28 x 28 digits, trained on first use; its weights live in Conch's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conch import paths

from . import data

VERSION = 1
"""Raise it when the layers or the training change: weights kept in the cache are then left alone.

Not the text of this file: new words in a docstring must not train anew for minutes.
"""
SEED = 0
WIDTH = 24
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
LABEL_SMOOTHING = 0.05
EPOCHS = {"full": 1, "small": 6}


class Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        """Halve the picture when ``stride`` is 2."""
        super().__init__()
        self.first = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width_out)
        self.second = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width_out)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.around = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width_in, h, w]`` → ``[batch, width_out, h / stride, w / stride]``."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.around(x))


class ResNet8(nn.Module):
    """Stem, three blocks, mean over the picture, one linear layer.

    Source: K. He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
    """

    def __init__(self, width: int = WIDTH) -> None:
        """``width`` channels in the first block, four times as many in the last."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures ``float32 [batch, 1, 28, 28]`` in 0 to 1 → scores ``float32 [batch, 10]``."""
        scores: Tensor = self.head(self.blocks(self.stem(image)).mean(dim=(2, 3)))
        return scores


def load() -> nn.Module:
    """The trained model: from the cache, else trained now (a minute or two on 2 cores)."""
    images, labels = data.labelled()
    epochs = EPOCHS["full" if data.is_full() else "small"]
    model = ResNet8()
    weights = _weights_path(images, labels, epochs)
    if weights.is_file():
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # nothing else runs before this is done
    try:
        train(model, images, labels, epochs=epochs)
    finally:
        torch.set_num_threads(threads)
    weights.parent.mkdir(parents=True, exist_ok=True)
    temporary = weights.with_suffix(f".{os.getpid()}")
    torch.save(model.state_dict(), temporary)
    temporary.replace(weights)
    return model.eval()


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, *, epochs: int) -> None:
    """Train in place with Adam and a one-cycle learning rate; tells each epoch on stderr.

    Args:
        model: the model.
        images: float32 ``[n, 1, 28, 28]``.
        labels: int64 ``[n]``.
        epochs: times that each image is seen.
    """
    torch.manual_seed(SEED)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = len(x) // BATCH_SIZE
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, epochs=epochs, steps_per_epoch=steps
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    start = time.monotonic()
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x))[: steps * BATCH_SIZE].view(steps, BATCH_SIZE):
            optimizer.zero_grad()
            pictures = data.shifted({"image": x[index]})["image"]
            scores = model(pictures.contiguous(memory_format=torch.channels_last))
            loss = loss_of(scores, y[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        spent = time.monotonic() - start
        print(
            f"  training ResNet-8 on {len(x)} images: epoch {epoch + 1}/{epochs}, "
            f"loss {total / steps:.3f}, {spent:.0f} s",
            file=sys.stderr,
        )
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _weights_path(images: np.ndarray, labels: np.ndarray, epochs: int) -> Path:
    """Where weights for this version, these settings and this data are kept."""
    settings = {
        "version": VERSION,
        "seed": SEED,
        "width": WIDTH,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "label_smoothing": LABEL_SMOOTHING,
        "epochs": epochs,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels))
    return paths.cache_dir() / "examples" / f"mnist-{digest.hexdigest()[:16]}.pt"
