"""What the controller itself sends to a model, to measure it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Requests that the controller itself sent to a model, to measure it; running totals.

    Attributes:
        requests, rows, seconds: answered ones, their items, and what they took.
        requests_loaded, rows_loaded: of these, since the model was loaded last.
    """

    requests: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    requests_loaded: float = 0.0
    rows_loaded: float = 0.0

    def plus(self, *, rows: int, seconds: float) -> Own:
        """With one more request."""
        return Own(
            requests=self.requests + 1,
            rows=self.rows + rows,
            seconds=self.seconds + seconds,
            requests_loaded=self.requests_loaded + 1,
            rows_loaded=self.rows_loaded + rows,
        )
