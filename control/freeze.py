"""The freeze switch: a person says that a model, or every model, is not to be changed for a while.

One small file in the repository's state, read at every tick. A file that cannot be understood
freezes everything: somebody wanted something, and doing nothing is the safe reading.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from conch.errors import RepositoryError
from conch.names import model_name
from serving import atomic, locks
from serving.repository import Repository

log = structlog.get_logger()

EVERY = "*"
LOCK_WAIT_S = 5.0
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Freezes:
    """Until when (seconds since the epoch) each model is frozen; ``*`` stands for all of them.

    ``until_s`` may be infinite: until somebody resumes it.
    """

    until_s: Mapping[str, float] = field(default_factory=dict)

    def of(self, model: str, *, now_s: float) -> float | None:
        """Until when the model is frozen; None when it is not.

        Example:
            >>> Freezes(until_s={"*": 20.0}).of("minilm", now_s=10.0)
            20.0
        """
        until_s = max(self.until_s.get(model, -math.inf), self.until_s.get(EVERY, -math.inf))
        return until_s if until_s > now_s else None


def path_of(repository: Repository) -> Path:
    """Where the freezes of a repository are."""
    return repository.state / "frozen.json"


def read(repository: Repository) -> Freezes:
    """The freezes in force; everything is frozen where the file cannot be understood."""
    path = path_of(repository)
    try:
        data = json.loads(atomic.read(path, most_bytes=_MOST_BYTES))
        return Freezes(until_s={name: _until(at) for name, at in data["until_s"].items()})
    except FileNotFoundError:
        return Freezes()
    except (
        OSError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        log.error("freeze.unreadable", path=str(path), error=str(error))
        return Freezes(until_s={EVERY: math.inf})


def pause(repository: Repository, model: str | None, *, for_s: float | None, now_s: float) -> float:
    """Freeze a model, or all of them for None; gives until when.

    Args:
        repository: whose.
        model: which; None for every one.
        for_s: for how long; None until it is resumed.
        now_s: seconds since the epoch.

    Raises:
        ConfigError: for a name that cannot be a model's.
        RepositoryError: when the disk refuses.
    """
    until_s = math.inf if for_s is None else now_s + for_s
    name = EVERY if model is None else model_name(model)
    with locks.held(_lock(repository), wait_s=LOCK_WAIT_S, busy=_busy(repository)):
        kept = _in_force(read(repository), now_s)
        _write(repository, {**kept, name: until_s})
    return until_s


def resume(repository: Repository, model: str | None, *, now_s: float) -> bool:
    """End the freeze of a model; None ends every one. Gives whether there was one.

    Raises:
        ConfigError: for a name that cannot be a model's.
        RepositoryError: when the disk refuses.
    """
    name = None if model is None else model_name(model)
    with locks.held(_lock(repository), wait_s=LOCK_WAIT_S, busy=_busy(repository)):
        kept = _in_force(read(repository), now_s)
        left = {} if name is None else {n: until_s for n, until_s in kept.items() if n != name}
        _write(repository, left)
    return left != kept


def _until(at: Any) -> float:
    """Until when, in seconds since the epoch.

    Raises:
        TypeError: for what is no number.
        ValueError: for a number that is none, or no time.
    """
    if at is None:
        return math.inf
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise TypeError(f"{at!r}: not seconds since the epoch")
    if not math.isfinite(at):
        raise ValueError(f"{at}: not seconds since the epoch")
    return float(at)


def _in_force(freezes: Freezes, now_s: float) -> dict[str, float]:
    """Those that are not over."""
    return {name: until_s for name, until_s in freezes.until_s.items() if until_s > now_s}


def _write(repository: Repository, until_s: Mapping[str, float]) -> None:
    """The file, whole or not at all; JSON knows no infinity, so null stands for it."""
    plain = {name: None if math.isinf(until) else until for name, until in until_s.items()}
    atomic.write(
        path_of(repository),
        (json.dumps({"schema": 1, "until_s": plain}, indent=2) + "\n").encode(),
        aside=repository.state / "tmp",
        point="control.freeze",
    )


def _lock(repository: Repository) -> Path:
    """The lock of the file."""
    return repository.state / "frozen.lock"


def _busy(repository: Repository) -> RepositoryError:
    """When another keeps writing it."""
    return RepositoryError(
        f"freezes of {repository.root}: another command is writing them.", hint="Try it again."
    )
