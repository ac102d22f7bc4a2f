"""Conditions on measured figures, as a user writes them for CI: ``p99_ms>50`` fails the command."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from conch.errors import ConfigError, ThresholdMissed

_FORM = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|<|>)\s*([0-9]*\.?[0-9]+)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A figure's name, a comparison and a bound; where the comparison holds, the command fails."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"

    def hit_by(self, figures: Mapping[str, Any]) -> bool:
        """Whether the figure is on the failing side; one that is None (not finite) is.

        Raises:
            ConfigError: when there is no figure of that name.
        """
        if self.name not in figures or isinstance(figures[self.name], str | dict | list):
            numbers = [key for key, value in figures.items() if isinstance(value, int | float)]
            close = difflib.get_close_matches(self.name, numbers, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Figures: {', '.join(numbers)}."
            raise ConfigError(f"--fail-on {self}: no figure {self.name!r}.", hint=hint)
        value = figures[self.name]
        return value is None or _COMPARE[self.sign](float(value), self.bound)


def parse(text: str) -> Threshold:
    """The threshold that the text says.

    Raises:
        ConfigError: when it is not ``NAME>NUMBER`` (or ``< >= <=``).

    Example:
        >>> str(parse("p99_ms > 50"))
        'p99_ms>50'
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--fail-on: {text!r}, must be NAME>NUMBER, with > >= < or <=.",
            hint='Example: --fail-on "p99_ms>50"',
        )
    return Threshold(name=match[1], sign=match[2], bound=float(match[3]))


def check(thresholds: Iterable[Threshold], figures: Mapping[str, Any], *, what: str) -> None:
    """Do nothing when no threshold is hit.

    Raises:
        ThresholdMissed: naming every threshold that was.
    """
    hits = [
        f"{threshold.name} = {figures[threshold.name]} ({threshold})"
        for threshold in thresholds
        if threshold.hit_by(figures)
    ]
    if hits:
        raise ThresholdMissed(
            f"{what}: {'; '.join(hits)}.", hint="The results are printed and saved as usual."
        )
