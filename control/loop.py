"""The shell around the core: look, decide, record, act, once a tick, for each model.

The journal is written before anything is changed: an action that cannot be recorded does not
happen. One loop may run a repository at a time: see ``control.lease``.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import structlog

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from control.actuator import Action, Actuator, Outcome
from control.core.budget import Shares
from control.core.guard import is_reload
from control.core.policies.conch import Conch
from control.core.policies.rule import Rule
from control.core.state import Applied, ControlState, InFlight
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision, Observation, Policy, Reason, Settings
from control.freeze import Freezes
from control.history import Rates, nothing
from control.journal import Journal
from control.observe import Observer, Survey
from serving.model_config import ReloadKind

log = structlog.get_logger()

PATIENT = (Reason.REBATCH, Reason.CACHE_SWITCH, Reason.SCALE_BY_RULE)
"""Reasons of reloads that lose nothing by waiting; a backlog or a rollback would."""
PRUNE_EVERY_S = 3600.0
SAVE_EVERY_S = 60.0
_CONCH = Conch()


class Mode(enum.Enum):
    """Whether decisions are applied. The path up to the actuator is the same."""

    ACTIVE = "active"
    ADVISORY = "advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A change that has ended.

    Attributes:
        decision: that asked for it.
        action: how it went; None when it failed and even the rollback did.
        error: why it failed, or empty.
    """

    decision: Decision
    action: Action | None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick did for one model.

    Attributes:
        model: whose.
        observation, decision: of this tick.
        begun: whether a change was begun.
        ended: the change that ended since the last tick, if one did.
    """

    model: str
    observation: Observation
    decision: Decision
    begun: bool = False
    ended: Ending | None = None


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
        history: the arrival rates of these models from before, asked once at the start.
        keep_journal_s: ticks without an action are forgotten after this long.
        clock: wall clock, seconds since the epoch.
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
    history: Callable[[Collection[str]], Mapping[str, Rates]] = nothing
    keep_journal_s: float = 7 * 86400.0
    clock: Callable[[], float] = time.time
    _states: dict[str, ControlState] = field(default_factory=dict)
    _acting: dict[str, _Acting] = field(default_factory=dict)
    _pool: ThreadPoolExecutor | None = None
    _last_reason: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Bring what is on disk into force, where an earlier controller died in between.

        And remember what it tried in the last hour: budget, cooldown and what failed; and what
        came before, where a history tells. A model that cannot be reconciled does not keep the
        others from being controlled. An advisory loop has only the history.
        """
        active = self.mode is Mode.ACTIVE
        for model in self.policies if active else ():
            try:
                self.actuator.reconcile(model)
            except ConchError as error:
                log.error("model.not_reconciled", model=model, error=error.message)
        rates = self.history(list(self.policies))  # last: it must reach up to the first look
        for model in self.policies:
            began = Started(at_s=self.clock(), history=rates.get(model, ()))
            if active:
                tried = self.journal.tried(model, since_s=began.at_s - 3600.0)
                began = replace(began, changes=tried, learnt=self.journal.learnt(model))
            if active or began.history:
                self._step(model, began)

    def tick(self) -> Iterator[Tick]:
        """One look and decision for each model; an error of one skips only that one.

        Raises:
            Fenced: when another controller has taken over.
        """
        self.fence()
        frozen = self.frozen()
        survey = self.observer.survey(self.policies)
        self.shares = self.shares.tick() if self.shares else None
        try:
            for model in self.policies:
                try:
                    yield self._tick(model, survey, frozen)
                except ConchError as error:
                    log.error("tick.failed", model=model, error=error.message)
        finally:
            self._write(self.journal.flush)

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
                    self._write(self._prune)
                if time.monotonic() >= save_s:
                    save_s += SAVE_EVERY_S
                    self._write(self._save)
                for done in self.tick():
                    if on_tick:
                        on_tick(done)
                now_s = time.monotonic()
                if duration_s is not None and now_s - begun_s >= duration_s:
                    return
                # Ticks that came too late are skipped, not stacked.
                due_s = max(due_s + tick_s, now_s)
                stop.wait(due_s - now_s)
        finally:
            self.settle()

    def settle(self) -> None:
        """Wait for the changes in flight, and remember how they went."""
        for model, acting in list(self._acting.items()):
            wait([acting.future])
            self._ended(model)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._write(self._save)
        self._write(self.journal.flush)

    def _prune(self) -> None:
        """Forget old ticks; what is remembered now is where a replay of the rest begins."""
        now_s = self.clock()
        for model, state in self._states.items():
            self.journal.checkpoint(model, state, at_s=now_s)
        self.journal.prune(before_s=now_s - self.keep_journal_s)

    def _save(self) -> None:
        """Keep what was learnt for the next controller."""
        if self.mode is not Mode.ACTIVE:  # an active one may be running beside this one
            return
        now_s = self.clock()
        learnt = {name: state.to_plain(at_s=now_s) for name, state in self._states.items()}
        self.journal.save_learnt(learnt, at_s=now_s)

    def _write(self, write: Callable[[], object]) -> None:
        """Write the journal; a full disk is said, and is no reason to stop looking."""
        try:
            write()
        except ConchError as error:
            log.error("journal.not_written", error=error.message)

    def _step(self, model: str, event: Event) -> Decision | None:
        """Feed the core one event."""
        rule = self.rules.get(model, _CONCH)
        state = self._states.get(model, ControlState())
        self._states[model], decision = step(rule, state, event, self.policies[model])
        self.journal.append(model, event, decision, at_s=self.clock())
        return decision

    def _tick(self, model: str, survey: Survey, frozen: Freezes) -> Tick:
        ended = self._ended(model)
        renew = ended is not None or model in self._acting
        seen = self.observer.look(model, survey=survey, clock=self.clock, renew=renew)
        seen = replace(seen, frozen=frozen.of(model, now_s=seen.at_s) is not None)
        if self.shares:
            seen = replace(seen, cap=self.shares.cap(model, seen))
        decision = self._step(model, Looked(seen=seen))
        assert decision is not None  # noqa: S101  # a look is always answered
        self._tell(model, decision)
        free = model not in self._acting and not seen.frozen  # whatever the rule says
        begin = decision.changes and self.mode is Mode.ACTIVE and free and not self._waits(decision)
        if begin:
            self._begin(model, decision)
        if self.shares:
            in_flight = self._states[model].in_flight
            self.shares = self.shares.looked(model, seen, decision, in_flight)
        return Tick(model=model, observation=seen, decision=decision, begun=begin, ended=ended)

    def _waits(self, decision: Decision) -> bool:
        """Whether a reload that is in no hurry must let that of another model end first.

        Each loads a second copy of its model: two at once share the cores and the memory.
        """
        if decision.reason not in PATIENT or not _reloads(decision):
            return False
        return any(_reloads(acting.decision) for acting in self._acting.values())

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
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, len(self.policies)), "conch-actuator")
        now_s = self.clock()
        action_id = self.journal.begin(model, decision, at_s=now_s)
        change = InFlight(since_s=now_s, settings=decision.desired, before=decision.applied)
        self._step(model, Begun(change=change))
        future = self._pool.submit(
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
        decision = acting.decision
        try:
            action = acting.future.result()
        except ConchError as error:
            log.error("change.failed", model=model, error=error.message)
            rejected = isinstance(error, ApplyRejected)
            outage = isinstance(error, TritonUnavailable)
            failed = self._change(acting, rejected, ok=False, unavailable=outage)
            self._step(model, Ended(change=failed))
            self._record_end(acting.action_id, error, failed)
            return Ending(decision=decision, action=None, error=error.message)
        change = None
        if action.outcome is not Outcome.UNCHANGED:
            reload = action.kind is ReloadKind.RELOAD
            ok = action.outcome is Outcome.APPLIED
            change = self._change(
                acting, reload, ok=ok, seconds=action.seconds, unavailable=action.unavailable
            )
        self._step(model, Ended(change=change))
        self._record_end(acting.action_id, action, change)
        return Ending(decision=decision, action=action, error=action.error)

    def _change(
        self,
        acting: _Acting,
        reload: bool,
        *,
        ok: bool,
        seconds: float = 0.0,
        unavailable: bool = False,
    ) -> Applied:
        """A change as the core remembers it."""
        assert acting.decision.desired is not None  # noqa: S101
        return Applied(
            at_s=self.clock(),
            settings=acting.decision.desired,
            before=acting.before,
            reload=reload,
            ok=ok,
            seconds=seconds,
            undo=acting.decision.reason is Reason.ROLLBACK,
            unavailable=unavailable,
        )

    def _record_end(
        self, action_id: int, result: Action | ConchError, change: Applied | None
    ) -> None:
        """Record the end; a journal that cannot must not hide what happened."""
        at_s = self.clock()
        self._write(lambda: self.journal.end(action_id, result, at_s=at_s, change=change))

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


def _reloads(decision: Decision) -> bool:
    """Whether a second copy of the model is loaded for it."""
    if decision.applied is None or decision.desired is None:
        return False
    return decision.fresh or is_reload(decision.desired, decision.applied)
