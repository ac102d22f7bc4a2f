"""What the loop writes into its journal, where a disk that refuses must not stop it.

Such an outage is said once, then ever more seldom, and when it is over. Only ``Journal.begin``
stops anything: a change that cannot be recorded is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from conch.errors import ConchError
from conch.log import Repeated
from control.act import outcome
from control.action import Action
from control.core.memory.changes import Applied
from control.core.memory.restart import to_plain
from control.core.memory.state import ControlState
from control.journal.writer import Journal

NOT_WRITTEN = "journal.not_written"


class Recording:
    """Writes the journal of one loop."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        """Into this journal; by the clock, in seconds since the epoch."""
        self._journal = journal
        self._clock = clock
        self._outage = Repeated(structlog.get_logger())

    def flush(self) -> None:
        """Make durable what waits."""
        if self._written(self._journal.flush):
            self._outage.over(NOT_WRITTEN, said="journal.written")

    def end(self, action_id: int, result: Action | ConchError, change: Applied | None) -> None:
        """How a change ended."""
        at_s = self._clock()
        self._written(lambda: self._journal.end(action_id, result, at_s=at_s, change=change))

    def save(self, states: Mapping[str, ControlState]) -> None:
        """What was learnt of each model, for the next controller."""
        at_s = self._clock()
        self._written(
            lambda: self._journal.save_learnt(
                {name: to_plain(state, at_s=at_s) for name, state in states.items()}, at_s=at_s
            )
        )

    def prune(self, states: Mapping[str, ControlState], *, keep_s: float) -> None:
        """Forget what is older; what is remembered now is where a replay of the rest begins."""
        at_s = self._clock()

        def forget() -> None:
            for model, state in states.items():
                self._journal.checkpoint(model, state, at_s=at_s)
            self._journal.prune(before_s=at_s - keep_s)

        self._written(forget)

    def _written(self, write: Callable[[], object]) -> object:
        """What the write gives; None where it failed, which is said."""
        try:
            return write()
        except Exception as error:
            self._outage.seen(NOT_WRITTEN, level="error", error=outcome.said(error))
            return None
