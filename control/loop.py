"""The shell around the core: look, decide, record, act, once a tick, for each model.

The journal is written before anything is changed: an action that cannot be recorded does not
happen. One loop may run a repository at a time; a lock file says so.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from conch.errors import ApplyRejected, ConchError, RepositoryError
from control.actuator import Action, Actuator, Outcome
from control.core.decide import decide
from control.core.state import Applied, ControlState
from control.core.types import Decision, Observation, Policy
from control.journal import Journal
from control.observe import Observer
from serving import locks
from serving.model_config import ReloadKind
from serving.repository import Repository

log = structlog.get_logger()

PRUNE_EVERY_S = 3600.0


class Mode(enum.Enum):
    """Whether decisions are applied. The path up to the actuator is the same."""

    ACTIVE = "active"
    ADVISORY = "advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick did for one model."""

    model: str
    observation: Observation
    decision: Decision
    action: Action | None


@dataclass(slots=True, kw_only=True)
class ControlLoop:
    """Ticks over the models of one server.

    Attributes:
        policies: by model.
        observer, actuator, journal: the shell's hands; see their modules.
        mode: active or advisory.
        keep_journal_s: ticks without an action are forgotten after this long.
        clock: wall clock, seconds since the epoch.
    """

    policies: Mapping[str, Policy]
    observer: Observer
    actuator: Actuator
    journal: Journal
    mode: Mode = Mode.ACTIVE
    keep_journal_s: float = 7 * 86400.0
    clock: Callable[[], float] = time.time
    _states: dict[str, ControlState] = field(default_factory=dict)
    _last_reason: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Bring what is on disk into force, where an earlier controller died in between.

        And remember what it tried in the last hour: budget, cooldown and what failed. A model that
        cannot be reconciled does not keep the others from being controlled.
        """
        if self.mode is not Mode.ACTIVE:
            return
        for model in self.policies:
            tried = self.journal.tried(model, since_s=self.clock() - 3600.0)
            self._states[model] = ControlState(changes=tried)
            try:
                self.actuator.reconcile(model)
            except ConchError as error:
                log.error("model.not_reconciled", model=model, error=error.message)

    def tick(self) -> Iterator[Tick]:
        """One look, decision and action for each model; an error of one skips only that one."""
        for model, policy in self.policies.items():
            try:
                yield self._tick(model, policy)
            except ConchError as error:
                log.error("tick.failed", model=model, error=error.message)

    def run(
        self,
        *,
        tick_s: float,
        stop: threading.Event,
        duration_s: float | None = None,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        """Tick until ``stop`` is set or ``duration_s`` has passed; a tick that fails only holds."""
        begun_s = time.monotonic()
        due_s = prune_s = begun_s
        while not stop.is_set():
            if time.monotonic() >= prune_s:
                prune_s += PRUNE_EVERY_S
                self._prune()
            for done in self.tick():
                if on_tick:
                    on_tick(done)
            now_s = time.monotonic()
            if duration_s is not None and now_s - begun_s >= duration_s:
                return
            # Ticks that an action took are skipped, not stacked.
            due_s = max(due_s + tick_s, now_s)
            stop.wait(due_s - now_s)

    def _prune(self) -> None:
        """Forget old ticks; a full disk is said and is no reason to stop."""
        try:
            self.journal.prune(before_s=self.clock() - self.keep_journal_s)
        except ConchError as error:
            log.error("journal.not_pruned", error=error.message)

    def _tick(self, model: str, policy: Policy) -> Tick:
        seen = self.observer.look(model, clock=self.clock)
        decision, state = decide(self._states.get(model, ControlState()), seen, policy)
        self._states[model] = state
        self.journal.record(model, seen, decision, mode=self.mode.value)
        self._tell(model, decision)
        action = None
        if decision.changes and self.mode is Mode.ACTIVE:
            action = self.act(model, decision)
        return Tick(model=model, observation=seen, decision=decision, action=action)

    def act(self, model: str, decision: Decision) -> Action:
        """Apply a decision, recorded before and after; the state learns how it went."""
        assert decision.desired is not None  # noqa: S101  # `changes` says so
        state = self._states.get(model, ControlState())
        self._states[model] = replace(state, in_flight=True)
        action_id = self.journal.begin(model, decision, at_s=self.clock())
        try:
            action = self.actuator.apply(
                model,
                decision.desired,
                reason=decision.reason.name,
                tick_id=decision.tick_id,
                fresh=decision.fresh,
            )
        except ConchError as error:
            self._learn(model, decision, reload=isinstance(error, ApplyRejected), ok=False)
            self._end(action_id, error)
            raise
        if action.outcome is Outcome.UNCHANGED:
            self._states[model] = state  # nothing was in flight after all
        else:
            reload = action.kind is ReloadKind.RELOAD
            self._learn(model, decision, reload=reload, ok=action.outcome is Outcome.APPLIED)
        self._end(action_id, action)
        return action

    def _end(self, action_id: int, result: Action | ConchError) -> None:
        """Record the end; a journal that cannot must not hide what happened."""
        try:
            self.journal.end(action_id, result, at_s=self.clock())
        except ConchError as error:
            log.error("journal.not_written", error=error.message)

    def _learn(self, model: str, decision: Decision, *, reload: bool, ok: bool) -> None:
        """Remember a change that was tried."""
        assert decision.desired is not None  # noqa: S101
        change = Applied(at_s=self.clock(), settings=decision.desired, reload=reload, ok=ok)
        state = self._states.get(model, ControlState()).tried(change)
        if reload:  # a new model object counts from zero: no difference across it is meant
            state = replace(state, last=None if state.last is None else _without_counts(state.last))
        self._states[model] = state

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


def _without_counts(seen: Observation) -> Observation:
    """The look without its statistics: the next interval then has none either."""
    return replace(seen, statistics=None)


@contextmanager
def sole_writer(repository: Repository) -> Iterator[None]:
    """Be the one loop that may write this repository; fails at once when there is another.

    Raises:
        RepositoryError: when another loop holds it.
    """
    busy = RepositoryError(
        f"control of {repository.root}: another control loop is running, only one may write.",
        hint="Stop it first, or use --advisory or --dry-run.",
    )
    with locks.held(repository.state / "control.lock", wait_s=0, busy=busy):
        yield
