"""Somebody else's work beside a run: each second each core is burnt or left alone, by a seed.

As a process a core: ``python -m perf.bench.neighbour SHARE SEED``. It ends with its parent's pipe.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator

from conch.errors import ConfigError

SECOND_S = 1.0


def busy(share: float, seed: int, second: int) -> bool:
    """Whether this second is burnt; the same for the same seed."""
    return random.Random(f"{seed} {second}").random() < share  # noqa: S311  # no secret


@contextlib.contextmanager
def neighbour(share: float, *, seed: int) -> Iterator[None]:
    """Burn this share (0 to 1) of the machine's core seconds for as long as the context is open.

    Raises:
        ConfigError: for a share that is none.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(
            f"neighbour: {share:g}, must be from 0 to 1.",
            hint="It is the share of the machine's core seconds that somebody else burns.",
        )
    cores = (os.cpu_count() or 1) if share else 0
    with contextlib.ExitStack() as stack:
        for core in range(cores):
            burner = subprocess.Popen(
                [sys.executable, "-m", "perf.bench.neighbour", str(share), f"{seed * 1000 + core}"],
                stdin=subprocess.PIPE,
            )
            stack.callback(_end, burner)
        yield


def _end(burner: subprocess.Popen[bytes]) -> None:
    """Close its pipe, and wait."""
    assert burner.stdin is not None  # PIPE was asked for
    burner.stdin.close()
    burner.wait()


def _burn(share: float, seed: int) -> None:
    """Until nobody holds the other end of stdin."""
    begun_s, second = time.monotonic(), 0
    while not _left_alone():
        until_s = begun_s + (second + 1) * SECOND_S
        if busy(share, seed, second):
            while time.monotonic() < until_s:
                sum(range(1000))
        else:
            time.sleep(max(0.0, until_s - time.monotonic()))
        second += 1


def _left_alone() -> bool:
    """Whether the parent has closed our stdin."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.0)
    return bool(ready)


if __name__ == "__main__":
    _burn(float(sys.argv[1]), int(sys.argv[2]))
