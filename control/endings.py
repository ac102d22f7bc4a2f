"""Changes in the hands of the actuator, until each has ended: what the core is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial

import structlog

from conch.errors import ApplyRejected, ConchError
from control.act import jobs, outcome
from control.act.actuator import Actuator
from control.act.probation import Probation, TakenBack
from control.action import Action, ServerGone
from control.core.memory.changes import Applied
from control.core.reasons import Reason
from control.core.types import Decision, Settings
from control.journal.recording import Recording
from control.journal.writer import Journal
from control.tick import Ending

log = structlog.get_logger()

AGAIN_S = 5.0
"""Between two tries to load what was brought back on disk."""
SETTLE_S = 7.0
"""So long a change in flight is waited for at the end: who asks for the end waits 10 s at most."""

PATIENT = (Reason.REBATCH, Reason.CACHE_SWITCH, Reason.SCALE_BY_RULE)
"""Reasons of reloads that lose nothing by waiting; a backlog or a rollback would."""


class Mender:
    """Loads configs that were brought back on disk, where Triton serves others.

    Beside the ticks, one try after another, until each is in force.
    """

    def __init__(self, actuator: Actuator, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Load by this; nothing is to be done yet."""
        self._actuator = actuator
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
                self._jobs[model] = jobs.begin("conch-mend", self._actuator.reconcile, model)
            return
        if not job.done():
            return
        self._jobs[model] = None
        self._again_s[model] = self._clock() + AGAIN_S
        job.result()
        del self._jobs[model]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """A change in the hands of the actuator.

    Attributes:
        action_id: of its record in the journal.
        decision: that asked for it.
        before: what was in force when it began.
        future: how it went.
    """

    action_id: int
    decision: Decision
    before: Settings
    future: Future[Action]


@dataclass(slots=True, kw_only=True)
class Endings:
    """Takes in changes that have ended, and those that were taken back.

    Attributes:
        journal, recording, clock, probation: those of the loop.
        mender: loads what was brought back on disk.
        told: feeds the core the ending of a model's change.
    """

    journal: Journal
    recording: Recording
    clock: Callable[[], float]
    probation: Probation | None
    mender: Mender
    told: Callable[[str, Applied | None], object]
    _acting: dict[str, Acting] = field(default_factory=dict)

    def __contains__(self, model: object) -> bool:
        """Whether a change of the model has not been taken in yet."""
        return model in self._acting

    def add(self, model: str, acting: Acting) -> None:
        """A change that has begun."""
        self._acting[model] = acting

    def waits(self, decision: Decision) -> bool:
        """Whether a reload that is in no hurry must let that of another model end first.

        Each loads a second copy of its model: two at once share the cores and the memory.
        """
        if decision.reason not in PATIENT or not outcome.reloads(decision):
            return False
        return any(outcome.reloads(acting.decision) for acting in self._acting.values())

    def take(self, model: str) -> Ending | None:
        """Take in the model's change that has ended, if it has."""
        acting = self._acting.get(model)
        if acting is None or not acting.future.done():
            return None
        del self._acting[model]
        if self.probation:
            self.probation.ended(model)
        result: Action | ConchError
        try:
            result = acting.future.result()
        except ConchError as error:
            log.error("change.failed", model=model, error=error.message, hint=error.hint)
            result = error
        except Exception as error:  # a fault of ours: the change counts as refused
            log.error("change.failed", model=model, error=outcome.said(error), exc_info=True)
            result = ApplyRejected(outcome.said(error))
        change = outcome.applied(acting.decision, acting.before, result, at_s=self.clock())
        if isinstance(result, ServerGone):
            self.mender.add(model)
        self.told(model, change)
        self.recording.end(acting.action_id, result, change)
        if isinstance(result, Action):
            return Ending(decision=acting.decision, action=result, error=result.error)
        return Ending(decision=acting.decision, action=None, error=result.message)

    def settle(self) -> None:
        """Wait a while for the changes in flight, and take in how they went.

        One that does not end is given up: its config is whole on disk, with a record of the one
        before (``serving.pending``), and the next controller brings order.
        """
        until_s = time.monotonic() + SETTLE_S
        for model, acting in list(self._acting.items()):
            wait([acting.future], timeout=max(0.0, until_s - time.monotonic()))
            if not acting.future.done():
                log.error(
                    "change.given_up",
                    model=model,
                    hint="The server does not answer. The next controller brings order.",
                )
            jobs.alone(model, "change.not_ended", partial(self.take, model))

    def learn_what_was_taken_back(self, models: Collection[str]) -> None:
        """Tell the core of changes that the server did not survive; load what is on disk again."""
        for back in self.probation.taken_back() if self.probation else ():
            if back.model in models:
                self.mender.add(back.model)
                jobs.alone(back.model, "change.not_blocked", partial(self._block, back))

    def _block(self, back: TakenBack) -> None:
        """Have the core remember what was taken back, and the journal for the next controller."""
        if back.settings is None or back.bad is None:
            return
        now_s = self.clock()
        change = outcome.undone(back.settings, back.bad, at_s=now_s)
        self.told(back.model, change)
        decision = Decision(
            tick_id="",
            at_s=now_s,
            reason=Reason.ROLLBACK,
            applied=back.bad,
            desired=back.settings,
        )
        action_id = self.journal.begin(back.model, decision, at_s=now_s)
        self.recording.end(action_id, ApplyRejected(f"taken back: {back.why}"), change)
