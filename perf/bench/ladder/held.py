"""What each model held over a run."""

from __future__ import annotations

from dataclasses import dataclass

from perf.bench.ladder.server import Period


@dataclass(slots=True, kw_only=True)
class Held:
    """The periods of each model, and what they cost.

    Attributes:
        periods: by model.
        changes: of a version, or loadings.
        most_bytes: that were held at any look, but for what a change in flight loads beside.
    """

    periods: list[list[Period]]
    changes: int = 0
    most_bytes: int = 0

    @classmethod
    def constant(cls, versions: list[int | None]) -> Held:
        """The same all the time."""
        return cls(periods=[[(0.0, version)] for version in versions])

    def set(self, number: int, at_s: float, version: int | None) -> None:
        """From now on the model holds that."""
        if self.periods[number][-1][1] != version:
            self.periods[number].append((at_s, version))
