"""Configs that were brought back on disk, and are to be loaded where Triton serves another."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from control.act import jobs

AGAIN_S = 5.0


class Mender:
    """Loads them beside the ticks, one try after another, until each is in force."""

    def __init__(
        self, load: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Load by this; nothing is to be done yet."""
        self._load = load
        self._clock = clock
        self._jobs: dict[str, Future[object] | None] = {}
        self._again_s: dict[str, float] = {}

    def __contains__(self, model: object) -> bool:
        """Whether the model's config is yet to be brought into force."""
        return model in self._jobs

    def add(self, model: str) -> None:
        """The model's config was brought back on disk."""
        self._jobs.setdefault(model, None)

    def go_on(self, model: str) -> None:
        """Begin a try, or take in how the last one went; the server answers now.

        Raises:
            ConchError: with what went wrong; it is tried again after a while.
        """
        job = self._jobs[model]
        if job is None:
            if self._clock() >= self._again_s.get(model, 0.0):
                self._jobs[model] = jobs.begin("conch-mend", self._load, model)
            return
        if not job.done():
            return
        self._jobs[model] = None
        self._again_s[model] = self._clock() + AGAIN_S
        job.result()
        del self._jobs[model]
