"""What a target of ``tests.fuzz`` breaks: a folder and a repository for one mutation."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conch.errors import ConchError
from serving.repository import Repository
from tests.fuzz_mutate import of_bytes, of_value

PLAIN = 'name: "m"\nbackend: "python"\nmax_batch_size: 8\n'
SHARED = Path("/dev/shm")  # noqa: S108  # a file system in memory, where there is one


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, gone afterwards."""
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as folder:
        yield Path(folder)


def is_refused(use: Callable[[], object]) -> bool:
    """Whether it was refused in the product's own words."""
    try:
        use()
    except ConchError:
        return True
    return False


@contextlib.contextmanager
def scratch_repository() -> Iterator[Repository]:
    """A repository in one, with the model ``m``."""
    with scratch() as folder:
        (folder / "m" / "1").mkdir(parents=True)
        (folder / "m" / "1" / "model.py").write_text("pass")
        (folder / "m" / "config.pbtxt").write_text(PLAIN)
        repository = Repository(folder)
        repository.state.mkdir()
        yield repository


def mutated_json(good: Any, draw: random.Random) -> bytes:
    """The value with changes of its structure, or of its bytes."""
    kind = draw.random()
    if kind < 0.05:
        return b"[" * draw.choice((500, 2000, 100_000))
    if kind < 0.5:
        with contextlib.suppress(ValueError):
            return json.dumps(of_value(good, draw)).encode()
    return of_bytes(json.dumps(good).encode(), draw)
