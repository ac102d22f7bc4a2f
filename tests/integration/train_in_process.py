"""Finetunes the bench's model in a process of its own, which the test kills: ``FOLDER``.

Tells each step on stdout and leaves time after it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from . import step_bench


def main(folder: Path) -> None:
    """Train, with a checkpoint after each step."""
    torch.set_num_threads(1)

    def told(done: int, total: int, note: str = "") -> None:
        print(done, flush=True)
        time.sleep(0.05)

    step_bench.finetuned(folder, told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
