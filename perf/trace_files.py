"""Traces as CSV files: our own (one column of seconds) and recorded ones (a column of timestamps).

A file has a header line. The arrival column is ``arrival_s`` (seconds), else ``TIMESTAMP`` (date
and time, as in the Azure LLM inference trace of 2023), else the only column. Lines that begin with
``#`` are comments; ``# duration_s: 60`` and ``# name: …`` are read back.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime
from pathlib import Path

import numpy as np

from conch.errors import ConfigError
from perf.traces import Trace

_COLUMNS = ("arrival_s", "timestamp")
_NOTE = re.compile(r"#\s*(name|duration_s|description|seed):\s*(.*)")


def load_csv(path: Path) -> Trace:
    """The trace in the file; its first arrival is at 0 when the file holds timestamps.

    Raises:
        ConfigError: when the file is missing, has no arrival column, or a line is not a time; the
            message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}).",
            hint="Check the path; a trace is a CSV file.",
        ) from error
    found = (_NOTE.match(line) for line in lines)
    notes = {match[1]: match[2].strip() for match in found if match}
    numbered = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if len(numbered) < 2:
        raise ConfigError(
            f"{path}: no arrivals, must have a header line and at least one time.",
            hint="Make one with `conch perf trace poisson --rate 50 --duration 30s`.",
        )
    column = _column(path, *numbered[0])
    arrival_s = np.array([_time(path, number, line, column) for number, line in numbered[1:]])
    is_timestamp = column[1] == "timestamp"
    if is_timestamp:
        arrival_s = np.sort(arrival_s - arrival_s.min())
    elif np.any(np.diff(arrival_s) < 0) or arrival_s[0] < 0:
        fault = int(np.argmax(np.diff(arrival_s, prepend=0.0) < 0))
        raise ConfigError(
            f"{path}:{numbered[1 + fault][0]}: {arrival_s[fault]:g} s, times must ascend from 0.",
            hint="Sort the file by its arrival column.",
        )
    return _built(path, notes, arrival_s)


def save_csv(trace: Trace, path: Path) -> None:
    """Write the trace so that ``load_csv`` reads the same one back (times to the microsecond)."""
    path.write_text(to_csv(trace), encoding="utf-8")


def to_csv(trace: Trace) -> str:
    """The file's text."""
    seed = "" if trace.seed is None else f"# seed: {trace.seed}\n"
    head = (
        f"# name: {trace.name}\n# description: {trace.description}\n{seed}"
        f"# duration_s: {trace.duration_s:.6f}\narrival_s\n"
    )
    return head + "".join(f"{time:.6f}\n" for time in trace.arrival_s)


def _built(path: Path, notes: dict[str, str], arrival_s: np.ndarray) -> Trace:
    """The trace from times and the comments' notes; bad notes are faults of the file."""
    last_s = float(arrival_s[-1])
    try:
        duration_s = float(notes.get("duration_s") or last_s)
        seed = int(notes["seed"]) if "seed" in notes else None
    except ValueError as error:
        raise ConfigError(
            f"{path}: comment with duration_s or seed is not a number ({error}).",
            hint="Mend or delete the comment line.",
        ) from None
    return Trace(
        name=notes.get("name") or path.stem,
        arrival_s=arrival_s,
        duration_s=max(duration_s, last_s, 1e-6),
        description=notes.get("description") or f"recorded arrivals of {path.name}",
        seed=seed,
    )


def _column(path: Path, number: int, header: str) -> tuple[int, str]:
    """Index and kind (``arrival_s`` or ``timestamp``) of the arrival column."""
    names = [name.strip().lower() for name in next(csv.reader([header]))]
    for kind in _COLUMNS:
        if kind in names:
            return names.index(kind), kind
    if len(names) == 1 and not _is_number(names[0]):
        return 0, "arrival_s"
    raise ConfigError(
        f"{path}:{number}: columns {', '.join(names)}; one must be arrival_s or TIMESTAMP.",
        hint="Name the column of arrival times in the header line.",
    )


def _time(path: Path, number: int, line: str, column: tuple[int, str]) -> float:
    """The line's arrival time in seconds (of the epoch for timestamps)."""
    index, kind = column
    cells = next(csv.reader([line]))
    cell = cells[index].strip() if index < len(cells) else ""
    try:
        value = _seconds_of(cell) if kind == "timestamp" else float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        wanted = "a date and time" if kind == "timestamp" else "a finite number of seconds"
        raise ConfigError(
            f"{path}:{number}: {cell!r}, the arrival column must hold {wanted}.",
            hint="Mend or delete the line.",
        )
    return value


def _seconds_of(timestamp: str) -> float:
    """Seconds since 1970 of ``2023-11-16 18:15:46.6805900``; a missing zone reads as UTC."""
    match = re.fullmatch(r"(.*?)(\.\d+)?(Z|[+-]\d\d:?\d\d)?", timestamp)
    if match is None:
        raise ValueError(timestamp)
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{whole}{(zone or 'Z').replace('Z', '+00:00')}")
    return moment.timestamp() + float(fraction or 0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
