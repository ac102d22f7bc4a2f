"""A context in which one step runs by itself, around a small model and labelled data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from export import recipe as recipes
from export.data import RecipeData
from export.original import TorchOriginal
from export.session import Session
from export.source import Source, load_module
from export.steps import Artifact, Context, Form
from export.steps.base import Tell
from export.steps.finetune import Finetune

from . import toy_recipe

MODEL = '''
import torch
from torch import nn

class Digits(nn.Module):
    """A skip connection, a normalisation, dropout and two layers in a row."""

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.wide = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(y + self.inner(y)).mean(dim=(2, 3))
        return self.head(torch.relu(self.wide(self.drop(y))))

def load():
    return Digits()

def student():
    return Digits(8)

def wrong_student():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def no_student():
    return 42
'''

DATA = '''
import numpy as np

def pictures(seed, count=256):
    """Stripes of four directions with noise, and which direction it is."""
    random = np.random.default_rng(seed)
    target = random.integers(4, size=count)
    rows, columns = np.mgrid[0:8, 0:8]
    waves = np.stack([rows, columns, rows + columns, rows - columns])[target]
    phase = random.uniform(0, 6, size=(count, 1, 1))
    image = np.sin(waves * 1.5 + phase) + random.normal(0, 0.5, (count, 8, 8))
    return {"x": image[:, None].astype(np.float32), "target": target}

def calibration():
    return [{"x": pictures(3, 64)["x"]}]

def evaluation():
    return [{"x": pictures(2)["x"]}]

def training():
    return [pictures(0), pictures(1)]

def unlabelled():
    return [{"x": batch["x"]} for batch in training()]

def shifted(batch):
    import torch
    return {**batch, "x": torch.roll(batch["x"], int(torch.randint(8, (1,))), dims=3)}

def halved(outputs, target):
    return 0.5 * (outputs["scores"].softmax(1)[range(len(target)), target] - 1).square().mean()

def vectors(outputs, target):
    return outputs["scores"]
'''


def a_context(folder: Path, *, training: str = "data.py:training", **sections: Any) -> Context:
    """A context for one step; ``sections`` change the recipe as in ``toy_recipe.write``."""
    path = toy_recipe.write(
        folder,
        model_code=MODEL,
        data_code=DATA,
        model={"inputs": [{"name": "x", "dtype": "float32", "dims": [1, 8, 8]}]},
        data={"training": training},
        **sections,
    )
    recipe = recipes.load(path)
    source = Source(folder)
    for name in ("made", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    return Context(
        recipe=recipe,
        folder=folder / "made",
        scratch=folder / "scratch",
        original=TorchOriginal(load_module(source, recipe.model, seed=0), recipe.model),
        data=RecipeData(recipe, source),
        source=source,
        tell=silent,
    )


def original(context: Context) -> Artifact:
    """The unchanged model, as the first step gets it."""
    return Artifact(form=Form.TORCH, module=context.original.module)


def silent(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


def accuracy(model: torch.nn.Module | Session, context: Context) -> float:
    """Fraction of evaluation pictures whose direction the module or the ONNX file finds."""
    batch = context.source.function("data.py:pictures", key="test")(2)
    if isinstance(model, Session):
        scores = model.run({"x": batch["x"]})["scores"]
    else:
        with torch.no_grad():
            scores = model(torch.from_numpy(batch["x"])).numpy()
    return float((scores.argmax(1) == batch["target"]).mean())


def finetuned(folder: Path, tell: Tell) -> Artifact:
    """The model of ``folder`` after 40 steps, with a checkpoint after each of them."""
    context = dataclasses.replace(a_context(folder), tell=tell)
    step = Finetune(steps=40, augment="data.py:shifted", learning_rate=1e-2)
    with mock.patch("export.checkpoint.Checkpoint.is_due", True):
        return step.run(original(context), context)
