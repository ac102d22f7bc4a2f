"""A constant of the core, an outcome that depends on it, and the same with another value."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from control.core.memory import bounds
from control.core.queue_model import capacity
from control.core.service.curves import ServiceTime

CASES: dict[str, Case] = {}
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One constant.

    Attributes:
        name: "room.module.NAME", below ``control.core``.
        outcome: a decision, or what one is made from; coarse enough that somebody would notice.
        about: what it is doubled about: 1 for a ratio whose margin counts (1.05 becomes 1.1).
    """

    name: str
    outcome: Callable[[], Any]
    about: float

    @property
    def says(self) -> str:
        """What the outcome is, as the page has it."""
        return (self.outcome.__doc__ or "").strip().rstrip(".")

    @property
    def module(self) -> ModuleType:
        """Where the constant is."""
        return module_of(self.name)

    @property
    def attribute(self) -> str:
        """Its name there."""
        return self.name.rpartition(".")[2]

    def times(self, factor: float) -> Any:
        """The constant times that, about ``about``."""
        return scaled(getattr(self.module, self.attribute), factor, about=self.about)

    def told(self) -> str:
        """The outcome as the page has it."""
        return rendered(self.outcome())


def outcome(name: str, *, about: float = 0.0) -> Callable[[Callable[[], T]], Callable[[], T]]:
    """Enter the function as the outcome of that constant."""

    def entered(function: Callable[[], T]) -> Callable[[], T]:
        assert name not in CASES, name
        CASES[name] = Case(name, function, about)
        return function

    return entered


def module_of(name: str) -> ModuleType:
    """The module of the constant "room.module.NAME"."""
    return importlib.import_module(".".join(("control.core", *name.split(".")[:-1])))


def scaled(value: Any, factor: float, *, about: float) -> Any:
    """The value times ``factor``; a whole one stays whole and at least 1."""
    if isinstance(value, tuple):
        return tuple(scaled(part, factor, about=about) for part in value)
    if isinstance(value, ServiceTime):  # its shape alone matters
        return ServiceTime(alpha_s=factor * value.alpha_s, beta_s=value.beta_s)
    if isinstance(value, int):
        return max(1, int(factor * value))
    return about + factor * (value - about)


def rendered(value: Any) -> str:
    """For people: three digits, "never" for None."""
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return ", ".join(rendered(part) for part in value)
    return str(value)


def first(grid: Iterable[T], true: Callable[[T], object]) -> T | None:
    """The first of them for which it is true; None without one."""
    return next((one for one in grid if true(one)), None)


def steps(start: float, stop: float, step: float) -> list[float]:
    """``start``, ``start`` + ``step``, ... up to ``stop``, without the noise of adding."""
    return [round(start + n * step, 9) for n in range(int((stop - start) / step + 1.5))]


def forget() -> None:
    """Answers that are kept may be those of another value."""
    capacity._normalised.cache_clear()
    bounds.effective.cache_clear()
