"""A recipe around a model of a few lines, written into a folder: what export tests start from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from export import pipeline
from export.report import Report

GOOD_MODEL = """
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.second = nn.Linear(64, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def load():
    return Toy()
"""

GOOD_DATA = """
import numpy as np

def batches(seed):
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((8, 16), dtype=np.float32)} for _ in range(4)]

def calibration():
    return batches(1)

def evaluation():
    return batches(2)
"""

ON_ANY_CPU = {"method": "dynamic", "reduce_range": True}
"""Without VNNI, the sums of 8-bit weights saturate."""

GOOD_RECIPE: dict[str, Any] = {
    "version": 1,
    "model": {
        "name": "toy",
        "factory": "model.py:load",
        "inputs": [{"name": "x", "dtype": "float32", "dims": [16]}],
        "outputs": [{"name": "scores", "dtype": "float32", "dims": [4]}],
    },
    "data": {"calibration": "data.py:calibration", "evaluation": "data.py:evaluation"},
    "variants": [
        {"name": "fp32", "steps": ["to_onnx"]},
        {"name": "int8", "steps": ["to_onnx", {"quantize": ON_ANY_CPU}]},
    ],
    "serving": {"max_batch_size": 8, "threads": 1},
    "measure": {"batches": [1, 8], "rounds": 3},
}


def write(
    folder: Path, *, model_code: str = GOOD_MODEL, data_code: str = GOOD_DATA, **sections: Any
) -> Path:
    """Write a recipe that works, but for the given sections, and give its path.

    A section that is a mapping is merged into the good one; anything else replaces it.
    """
    recipe = copy.deepcopy(GOOD_RECIPE)
    for key, value in sections.items():
        if isinstance(value, dict):
            recipe[key] = {**recipe.get(key, {}), **value}
        else:
            recipe[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(model_code, encoding="utf-8")
    (folder / "data.py").write_text(data_code, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path, **settings: Any) -> Report:
    """A run that keeps its files beside the recipe, unless told of another work folder."""
    work, repository = path.parent / "work", path.parent / "repository"
    return pipeline.run(path, **{"work_dir": work, "repository": repository, **settings})


def a_model(forward: str, *, init: str = "", name: str = "Toy") -> str:
    """Code of a model with this ``forward`` body."""
    return (
        "import torch\nfrom torch import nn\n"
        f"class {name}(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.first = nn.Linear(16, 4)\n        {init or 'pass'}\n"
        f"    def forward(self, x):\n        {forward}\n"
        f"def load():\n    return {name}()\n"
    )
