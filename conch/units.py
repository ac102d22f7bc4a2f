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


def parse_duration(value: object) -> float:
    """Seconds from ``500ms``, ``2s``, ``1.5m``, ``1h`` or a bare number of seconds.

    Raises:
        ValueError: when it is none of these, or negative.

    Example:
        >>> parse_duration("50ms")
        0.05
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{value!r} is not a duration: it must be finite and at least 0")
        return float(value)
    match = _DURATION.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a duration: write it as 500ms, 2s, 1.5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Bytes from ``2GiB``, ``500MB`` or a bare number of bytes.

    Raises:
        ValueError: when it is none of these.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a size: write it as 2GiB, 500MB or 1024")
    return int(float(match[1]) * _BYTES[match[2]])


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]


class DurationParam(click.ParamType[float]):
    """A click option that takes ``50ms`` and gives seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, or click's usage error."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


DURATION = DurationParam()


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
