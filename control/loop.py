"""The shell around the core: look, decide, record, act, once a tick, for each model.

The journal is written before anything is changed: an action that cannot be recorded does not
happen. One loop may run a repository at a time: see ``control.lease``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from conch.errors import ApplyRejected, ConchError
from conch.log import Repeated
from control.act import jobs, outcome
from control.act.actuator import Action, Actuator, ServerGone
from control.act.calibrator import Calibrator
from control.act.healer import Healer
from control.act.mending import Mender
from control.act.probation import Probation, TakenBack
from control.core.budget.shares import Shares
from control.core.memory.state import ControlState, InFlight
from control.core.rules.conch import Conch
from control.core.rules.rule import Rule
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision, Observation, Policy, Reason, Settings
from control.freeze import Freezes
from control.journal.recording import Recording
from control.journal.writer import Journal
from control.tick import Ending, Mode, Tick
from control.watch.observe import Observer, Survey

__all__ = ["ControlLoop", "Ending", "Mode", "Tick"]

log = structlog.get_logger()

PATIENT = (Reason.REBATCH, Reason.CACHE_SWITCH, Reason.SCALE_BY_RULE)
"""Reasons of reloads that lose nothing by waiting; a backlog or a rollback would."""
PRUNE_EVERY_S = 3600.0
SAVE_EVERY_S = 60.0
SETTLE_S = 7.0
"""So long a change in flight is waited for at the end: who asks for the end waits 10 s at most."""
_CONCH = Conch()


@dataclass(slots=True, kw_only=True)
class _Acting:
    """A change in the hands of the actuator."""

    action_id: int
    decision: Decision
    before: Settings
    future: Future[Action]


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
    _acting: dict[str, _Acting] = field(default_factory=dict)
    _mender: Mender = field(init=False)
    _recording: Recording = field(init=False)
    _last_reason: dict[str, str] = field(default_factory=dict)
    _short: Repeated = field(default_factory=lambda: Repeated(log))

    def __post_init__(self) -> None:
        """What is to be loaded again goes through the actuator."""
        self._mender = Mender(self._load)
        self._recording = Recording(self.journal, self.clock)

    def start(self, *, stop: threading.Event | None = None) -> None:
        """Bring what is on disk into force, where an earlier controller died in between.

        And remember what it tried in the last hour: budget, cooldown and what failed. A model that
        cannot be reconciled does not keep the others from being controlled. An advisory loop
        remembers nothing. ``stop`` ends the waiting for a server that hangs in a load.
        """
        if self.mode is not Mode.ACTIVE:
            return
        for model in self.policies:
            jobs.alone(model, "model.not_reconciled", partial(self._reconcile, model, stop))
        for model in self.policies:
            began = outcome.remembered(self.journal, model, Started(at_s=self.clock()))
            jobs.alone(model, "model.not_restored", partial(self._step, model, began))

    def _load(self, model: str) -> bool:
        """Bring the model's file into force, where it is ours."""
        return self.actuator.reconcile(model)

    def _reconcile(self, model: str, stop: threading.Event | None) -> None:
        """What an earlier controller left of a model, in order; not waited for beyond ``stop``."""
        jobs.waited_for(jobs.begin("conch-reconcile", self.actuator.reconcile, model), stop)

    def tick(self) -> Iterator[Tick]:
        """One look and decision for each model; any error of one costs only that one's look.

        Raises:
            Fenced: when another controller has taken over.
        """
        self.fence()
        frozen = self.frozen()
        self._learn_what_was_taken_back()
        survey = self.observer.survey(self.policies)
        if self.shares:
            self.shares = self.shares.tick(self.clock())
            self._tell_of_memory(self.shares.lacks_bytes)
        try:
            for model in self.policies:
                done: list[Tick] = []
                look = partial(self._tick, model, survey, frozen, done)
                jobs.alone(model, "tick.failed", look)
                yield from done
        finally:
            self._recording.flush()

    def run(
        self,
        *,
        tick_s: float,
        stop: threading.Event,
        duration_s: float | None = None,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        """Tick until ``stop`` is set or ``duration_s`` has passed; a tick that fails only holds.

        A change that is in flight at the end is waited for.
        """
        begun_s = time.monotonic()
        due_s = prune_s = begun_s
        save_s = begun_s + SAVE_EVERY_S
        try:
            while not stop.is_set():
                if time.monotonic() >= prune_s:
                    prune_s += PRUNE_EVERY_S
                    self._recording.prune(self._states, keep_s=self.keep_journal_s)
                if time.monotonic() >= save_s:
                    save_s += SAVE_EVERY_S
                    self._save()
                for done in self.tick():
                    if on_tick:
                        on_tick(done)
                    if stop.is_set():
                        return
                now_s = time.monotonic()
                if duration_s is not None and now_s - begun_s >= duration_s:
                    return
                # Ticks that came too late are skipped, not stacked.
                due_s = max(due_s + tick_s, now_s)
                stop.wait(due_s - now_s)
        finally:
            self.settle()

    def settle(self) -> None:
        """Wait a while for the changes in flight, and remember how they went.

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
            jobs.alone(model, "change.not_ended", partial(self._ended, model))
        self._save()
        self._recording.flush()

    def _save(self) -> None:
        """Keep what was learnt for the next controller."""
        if self.mode is Mode.ACTIVE:  # else one may be running beside this one
            self._recording.save(self._states)

    def _step(self, model: str, event: Event) -> Decision | None:
        """Feed the core one event."""
        rule = self.rules.get(model, _CONCH)
        state = self._states.get(model, ControlState())
        self._states[model], decision = step(rule, state, event, self.policies[model])
        self.journal.append(model, event, decision, at_s=self.clock())
        return decision

    def _tick(self, model: str, survey: Survey, frozen: Freezes, done: list[Tick]) -> None:
        """Look, decide and act for one model; adds to ``done`` what it did."""
        ended = self._ended(model)
        acting = model in self._acting or model in self._mender
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
        decision = self._step(model, Looked(seen=seen))
        assert decision is not None  # noqa: S101  # a look is always answered
        self._tell(model, decision)
        free = not acting and not seen.frozen and not seen.edited  # whatever the rule says
        begin = decision.changes and self.mode is Mode.ACTIVE and free and not self._waits(decision)
        if begin:
            self._begin(model, decision)
        if not acting and not begin:
            self._look_for_dead(model)
            self._measure(model, seen)
        if self.shares:
            in_flight = self._states[model].in_flight
            self.shares = self.shares.looked(model, seen, decision, in_flight)
        done.append(
            Tick(model=model, observation=seen, decision=decision, begun=begin, ended=ended)
        )

    def _look_for_dead(self, model: str) -> None:
        """Have a model whose requests fail asked for dead stubs, unless its last change is judged.

        The probes would count as the load of the change, and their failures as its own.
        """
        state = self._states[model]
        if self.healer and state.safety.watch is None:
            self.healer.looked(model, state.intervals[-1:])

    def _measure(self, model: str, seen: Observation) -> None:
        """Have full batches measured, but while a person keeps the model or a change is judged."""
        state = self._states[model]
        if self.calibrator and not (seen.frozen or seen.edited or state.safety.watch):
            measured = state.learnt.largest_measured_with(seen.threads)
            self.calibrator.looked(model, seen, measured=measured)

    def _waits(self, decision: Decision) -> bool:
        """Whether a reload that is in no hurry must let that of another model end first.

        Each loads a second copy of its model: two at once share the cores and the memory.
        """
        if decision.reason not in PATIENT or not outcome.reloads(decision):
            return False
        return any(outcome.reloads(acting.decision) for acting in self._acting.values())

    def act(self, model: str, decision: Decision) -> Action:
        """Apply a decision and wait for the end.

        Raises:
            ConchError: when it failed and could not be undone.
        """
        self._begin(model, decision)
        future = self._acting[model].future
        try:
            return future.result()
        finally:
            self._ended(model)

    def _begin(self, model: str, decision: Decision) -> None:
        """Record a change and hand it to the actuator."""
        assert decision.desired is not None  # noqa: S101  # `changes` says so
        assert decision.applied is not None  # noqa: S101
        now_s = self.clock()
        action_id = self.journal.begin(model, decision, at_s=now_s)
        change = InFlight(since_s=now_s, settings=decision.desired, before=decision.applied)
        self._step(model, Begun(change=change))
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
        self._acting[model] = _Acting(
            action_id=action_id, decision=decision, before=decision.applied, future=future
        )

    def _ended(self, model: str) -> Ending | None:
        """Take in the change that has ended, if one has."""
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
            self._mender.add(model)
        self._step(model, Ended(change=change))
        self._recording.end(acting.action_id, result, change)
        if isinstance(result, Action):
            return Ending(decision=acting.decision, action=result, error=result.error)
        return Ending(decision=acting.decision, action=None, error=result.message)

    def _learn_what_was_taken_back(self) -> None:
        """Tell the core of changes that the server did not survive; load what is on disk again."""
        for back in self.probation.taken_back() if self.probation else ():
            if back.model in self.policies:
                self._mender.add(back.model)
                jobs.alone(back.model, "change.not_blocked", partial(self._block, back))

    def _block(self, back: TakenBack) -> None:
        """Have the core remember what was taken back, and the journal for the next controller."""
        if back.settings is None or back.bad is None:
            return
        now_s = self.clock()
        change = outcome.undone(back.settings, back.bad, at_s=now_s)
        self._step(back.model, Ended(change=change))
        decision = Decision(
            tick_id="",
            at_s=now_s,
            reason=Reason.ROLLBACK,
            applied=back.bad,
            desired=back.settings,
        )
        action_id = self.journal.begin(back.model, decision, at_s=now_s)
        self._recording.end(action_id, ApplyRejected(f"taken back: {back.why}"), change)

    def _tell_of_memory(self, lacks_bytes: int) -> None:
        """A line now and then while the budget's memory does not even hold all at their least."""
        if lacks_bytes <= 0:
            self._short.over("budget.too_small", said="budget.enough")
            return
        hint = "Raise memory_mib in the policy's budget, or control fewer models."
        self._short.seen("budget.too_small", lacks_mib=-(-lacks_bytes // 2**20), hint=hint)

    def _tell(self, model: str, decision: Decision) -> None:
        """A log line when something changes, or the reason did."""
        level = log.info
        if not decision.changes and self._last_reason.get(model) == decision.reason.name:
            level = log.debug
        self._last_reason[model] = decision.reason.name
        level(
            "tick.decided",
            tick_id=decision.tick_id,
            model=model,
            mode=self.mode.value,
            reason=decision.reason.name,
            changes=decision.changes,
            need_rps=round(decision.terms.get("need_rps", 0.0), 1),
            clamps=[clamp.name for clamp in decision.clamps],
        )
