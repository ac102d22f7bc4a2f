"""The shell around the core: look, decide, record, act, once a tick, for each model.

The journal is written before anything is changed: an action that cannot be recorded does not
happen. One loop may run a repository at a time: see ``control.lease``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from control import care
from control.act import jobs
from control.act.actuator import Actuator
from control.act.calibrator import Calibrator
from control.act.healer import Healer
from control.act.probation import Probation
from control.action import Action
from control.core.budget.shares import Shares
from control.core.decision.decide import Conch
from control.core.memory.changes import InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules.rule import Rule
from control.core.step import Begun, Ended, Event, Looked, step
from control.core.types import Decision
from control.endings import Acting, Endings, Mender
from control.freeze import Freezes
from control.journal.recording import Recording
from control.journal.writer import Journal
from control.tick import Ending, Mode, Telling, Tick
from control.watch.observe import Observer, Survey

_CONCH = Conch()


@dataclass(slots=True, kw_only=True)
class ControlLoop:
    """Ticks over the models of one server.

    A change is applied in a thread of its own while the ticks go on: an instance may take many
    seconds to load, and whoever looks away that long sees the next jump too late. One change a
    model is in flight at a time.

    Attributes:
        policies: by model.
        observer, actuator, journal: the shell's hands; see their modules.
        rules: by model; Conch's own where a model has none.
        mode: active or advisory.
        shares: of the budget that the models have together; None without one.
        frozen: what a person froze, read at each tick.
        fence: raises when another controller has taken over; asked before each tick.
        keep_journal_s: ticks without an action are forgotten after this long.
        clock: seconds since the epoch; must not jump (``control.watch.clock``).
        wall: what people's clocks say: a freeze ends by it.
        probation: watches changes that are not proven; None watches none.
        healer: is told of models whose requests fail; None heals none.
        calibrator: measures full batches where nobody sends any; None measures none.
        left_out: the models that are not under control, with why.
    """

    policies: Mapping[str, Policy]
    observer: Observer
    actuator: Actuator
    journal: Journal
    rules: Mapping[str, Rule] = field(default_factory=dict)
    mode: Mode = Mode.ACTIVE
    shares: Shares | None = None
    frozen: Callable[[], Freezes] = Freezes
    fence: Callable[[], None] = lambda: None
    keep_journal_s: float = 7 * 86400.0
    clock: Callable[[], float] = time.time
    wall: Callable[[], float] = time.time
    probation: Probation | None = None
    healer: Healer | None = None
    calibrator: Calibrator | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    _states: dict[str, ControlState] = field(default_factory=dict)
    _endings: Endings = field(init=False)
    _mender: Mender = field(init=False)
    _recording: Recording = field(init=False)
    _telling: Telling = field(init=False)

    def __post_init__(self) -> None:
        """What is to be loaded again goes through the actuator, how a change ended to the core."""
        self._mender = Mender(self.actuator)
        self._recording = Recording(self.journal, self.clock)
        self._telling = Telling(mode=self.mode)
        self._endings = Endings(
            journal=self.journal,
            recording=self._recording,
            clock=self.clock,
            probation=self.probation,
            mender=self._mender,
            told=lambda model, change: self.step(model, Ended(change=change)),
        )

    def tick(self) -> Iterator[Tick]:
        """One look and decision for each model; any error of one costs only that one's look.

        Raises:
            Fenced: when another controller has taken over.
        """
        self.fence()
        frozen = self.frozen()
        self._endings.learn_what_was_taken_back(self.policies)
        survey = self.observer.survey(self.policies)
        if self.shares:
            self.shares = self.shares.tick(self.clock())
            self._telling.lacks(self.shares.lacks_bytes)
        try:
            for model in self.policies:
                done: list[Tick] = []
                look = partial(self._tick, model, survey, frozen, done)
                jobs.alone(model, "tick.failed", look)
                yield from done
        finally:
            self._recording.flush()

    def ended(self, model: str) -> Ending | None:
        """Take in the model's change that has ended, if one has."""
        return self._endings.take(model)

    def settle(self) -> None:
        """Wait a while for the changes in flight, and remember how they went."""
        self._endings.settle()
        self.save()
        self._recording.flush()

    def save(self) -> None:
        """Keep what was learnt for the next controller."""
        if self.mode is Mode.ACTIVE:  # else one may be running beside this one
            self._recording.save(self._states)

    def prune(self) -> None:
        """Forget ticks without an action that are older than ``keep_journal_s``."""
        self._recording.prune(self._states, keep_s=self.keep_journal_s)

    def step(self, model: str, event: Event) -> Decision | None:
        """Feed the core one event."""
        rule = self.rules.get(model, _CONCH)
        state = self._states.get(model, ControlState())
        self._states[model], decision = step(rule, state, event, self.policies[model])
        self.journal.append(model, event, decision, at_s=self.clock())
        return decision

    def _tick(self, model: str, survey: Survey, frozen: Freezes, done: list[Tick]) -> None:
        """Look, decide and act for one model; adds to ``done`` what it did."""
        ended = self.ended(model)
        acting = model in self._endings or model in self._mender
        renew = ended is not None or acting
        seen = self.observer.look(
            model, survey=survey, clock=self.clock, renew=renew, acting=acting
        )
        seen = replace(seen, frozen=frozen.of(model, now_s=self.wall()) is not None)
        if self.probation:
            self.probation.looked(model, seen)
        if model in self._mender and seen.applied is not None:
            jobs.alone(model, "change.not_mended", partial(self._mender.go_on, model))
        if self.shares:
            cap, may_load = self.shares.cap(model, seen), self.shares.may_load(model, seen)
            seen = replace(seen, cap=cap, may_load=may_load)
        if self.calibrator:
            seen = self.calibrator.told(model, seen)
        decision = self.step(model, Looked(seen=seen))
        assert decision is not None  # noqa: S101  # a look is always answered
        self._telling.decided(model, decision)
        free = not acting and not seen.frozen and not seen.edited  # whatever the rule says
        may_begin = self.mode is Mode.ACTIVE and free
        begin = decision.changes and may_begin and not self._endings.waits(decision)
        if begin:
            self.begin(model, decision)
        if not acting and not begin:
            care.look_for_dead(self.healer, model, self._states[model])
            care.measure(self.calibrator, model, self._states[model], seen)
        if self.shares:
            in_flight = self._states[model].in_flight
            self.shares = self.shares.looked(model, seen, decision, in_flight)
        done.append(
            Tick(model=model, observation=seen, decision=decision, begun=begin, ended=ended)
        )

    def begin(self, model: str, decision: Decision) -> Future[Action]:
        """Record a change and hand it to the actuator; how it goes is taken in at a later tick."""
        assert decision.desired is not None  # noqa: S101  # `changes` says so
        assert decision.applied is not None  # noqa: S101
        now_s = self.clock()
        action_id = self.journal.begin(model, decision, at_s=now_s)
        change = InFlight(since_s=now_s, settings=decision.desired, before=decision.applied)
        self.step(model, Begun(change=change))
        if self.probation:
            self.probation.begins(model)
        if self.calibrator:
            self.calibrator.leave(model)
        future = jobs.begin(
            "conch-actuator",
            self.actuator.apply,
            model,
            decision.desired,
            reason=decision.reason.name,
            tick_id=decision.tick_id,
            fresh=decision.fresh,
        )
        self._endings.add(
            model,
            Acting(action_id=action_id, decision=decision, before=decision.applied, future=future),
        )
        return future
