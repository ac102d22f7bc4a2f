"""Durations and sizes as people write them (``50ms``, ``2GiB``), as seconds and bytes.

``Duration`` and ``Size`` are pydantic types for config files and click types share the parsers.
"""

from __future__ import annotations

import re
from typing import Annotated

import click
from pydantic import BeforeValidator

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)\s*(us|ms|s|m|h)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_BYTES = {
    None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "kB": 10**3, "MB": 10**6, "GB": 10**9,
}  # fmt: skip

LONGEST_S = 9e9
"""About what a timer of the operating system takes: 285 years."""
LONGEST_BARE_S = 10.0
"""No objective is longer than this many seconds by intent; `slo: 100` means milliseconds."""


def parse_duration(value: object) -> float:
    """Seconds from ``500ms``, ``2s``, ``1.5m``, ``1h`` or a bare number of seconds.

    Raises:
        ValueError: when it is none of these, or negative.

    Example:
        >>> parse_duration("50ms")
        0.05
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds: float = value
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f"{value!r} is not a duration: write it as 500ms, 2s, 1.5m or 1h")
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 <= seconds <= LONGEST_S:
        raise ValueError(f"{value!r} is not a duration: it must be from 0 to {LONGEST_S:.0e} s")
    return float(seconds)


def parse_objective(value: object) -> float:
    """Seconds of a latency objective: a bare number is refused where milliseconds are meant.

    Raises:
        ValueError: when it is no duration, or a number above 10 without a unit.
    """
    seconds = parse_duration(value)
    if seconds > LONGEST_BARE_S and not str(value).strip()[-1:].isalpha():
        number = str(value).strip()
        raise ValueError(f"{number} would be seconds: write {number}ms, or {number}s if it is that")
    return seconds


def parse_size(value: object) -> int:
    """Bytes from ``2GiB``, ``500MB`` or a bare number of bytes.

    Raises:
        ValueError: when it is none of these.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a size: write it as 2GiB, 500MB or 1024")
    count = float(match[1]) * _BYTES[match[2]]
    if not count < 2**63:
        raise ValueError(f"{value!r} is not a size: it must be below 2**63 bytes")
    return int(count)


Duration = Annotated[float, BeforeValidator(parse_duration)]
Objective = Annotated[float, BeforeValidator(parse_objective)]
Size = Annotated[int, BeforeValidator(parse_size)]


class DurationParam(click.ParamType[float]):
    """A click option that takes ``50ms`` and gives seconds."""

    name = "duration"
    parse = staticmethod(parse_duration)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, or click's usage error."""
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class ObjectiveParam(DurationParam):
    """The same for a latency objective."""

    parse = staticmethod(parse_objective)


DURATION = DurationParam()
OBJECTIVE = ObjectiveParam()


class SizeParam(click.ParamType[int]):
    """A click option that takes ``64MiB`` and gives bytes."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes, or click's usage error."""
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


SIZE = SizeParam()
