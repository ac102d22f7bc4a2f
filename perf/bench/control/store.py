"""Finished runs in a folder, by a key of everything that they depend on: a second start resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from control.journal import codec
from perf.bench.control.run import ChangeMade, ControlRun

_ARRAYS = ("intended_s", "latency_s")
_NUMBERS = ("controller_cpu_s", "busy_fraction", "duration_s", "slo_s")
_CODE = ("control", "perf/bench/control")
_NOT_CODE = (
    "figures.py", "report.py", "tables.py", "plan.py", "campaign.py", "side_by_side.py",
    "store.py", "score.py",
)  # fmt: skip


def key_of(values: Mapping[str, Any], *, arrivals: np.ndarray, deciding: bool) -> str:
    """A name for the run that these values lead to.

    Args:
        values: what the run depends on, as JSON types.
        arrivals: float64 [n], the arrival times.
        deciding: whether a rule decides: then its code is part of the name.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(arrivals).tobytes())
    if deciding:
        digest.update(code_digest().encode())
    return digest.hexdigest()[:20]


@cache
def code_digest() -> str:
    """Of the code that decides: a run made with other code is another run."""
    root = Path(__file__).parents[3]
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((root / folder).rglob("*.py")):
            if path.name not in _NOT_CODE:
                digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def save(run: ControlRun, folder: Path, key: str) -> None:
    """Write ``KEY.npz`` (every request) and then ``KEY.json`` (the rest), which makes it count."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.npz").open("wb") as file:
        np.savez_compressed(file, **{name: getattr(run, name) for name in _ARRAYS})
    rest = {
        field.name: codec.plain(getattr(run, field.name))
        for field in dataclasses.fields(run)
        if field.name not in _ARRAYS
    }
    temp = folder / f"{key}.part"
    temp.write_text(json.dumps(rest, indent=1) + "\n", encoding="utf-8")
    temp.replace(folder / f"{key}.json")


def load(folder: Path, key: str) -> ControlRun | None:
    """The finished run of that name; None when there is none, or it cannot be read."""
    try:
        rest = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{key}.npz", allow_pickle=False) as data:
            arrays = {name: data[name] for name in _ARRAYS}
        return ControlRun(**{**_typed(rest), **arrays})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _typed(rest: dict[str, Any]) -> dict[str, Any]:
    """JSON types back in the run's own."""
    return {
        **rest,
        **{name: float(rest[name]) for name in _NUMBERS},  # nan and inf may be text
        "paid": tuple((float(at_s), int(count)) for at_s, count in rest["paid"]),
        "expected": tuple((float(at_s), float(p99_s)) for at_s, p99_s in rest["expected"]),
        "changes": tuple(
            ChangeMade(
                **{
                    **change,
                    "begun_s": float(change["begun_s"]),
                    "ended_s": float(change["ended_s"]),
                    "before": codec.settings(change["before"]),
                    "after": codec.settings(change["after"]),
                }
            )
            for change in rest["changes"]
        ),
    }
