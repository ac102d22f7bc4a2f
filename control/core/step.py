"""The core as a state machine: events go in, a decision comes out of each look.

Everything that may change the memory of a model is an event, so that a journal of them replays to
the same decisions. The loop, the simulator and ``control replay`` all call ``step``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from control.core.decision import holds
from control.core.load import windows
from control.core.memory import owner
from control.core.memory.changes import Applied, InFlight
from control.core.memory.restart import restored
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules.rule import Rule
from control.core.types import Decision, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A controller begins.

    Attributes:
        at_s: when.
        changes: what was tried in the last hour, by the journal.
        learnt: service times in their saved form; empty when there are none.
    """

    at_s: float
    changes: tuple[Applied, ...] = ()
    learnt: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One look at the model; the only event that is answered by a decision."""

    seen: Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A change is being applied."""

    change: InFlight


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A change was applied, or refused and rolled back; None when it changed nothing."""

    change: Applied | None


Event = Started | Looked | Begun | Ended


def step(
    rule: Rule, state: ControlState, event: Event, policy: Policy
) -> tuple[ControlState, Decision | None]:
    """The memory after the event, and the decision where it was a look. Pure.

    A look with a number that none can be is answered by a hold, whatever the rule, and forgotten.
    One at a model that a person froze or edited is answered by a hold, too, and remembered.
    """
    match event:
        case Started():
            return restored(changes=event.changes, learnt=event.learnt, at_s=event.at_s), None
        case Looked():
            seen = windows.usable(event.seen)
            if seen is None:
                return state, holds.no_data(event.seen)
            state = owner.owned(state, seen)
            decision, state = rule.decide(state, seen, owner.bounded(state, seen, policy))
            return state, holds.believed(holds.obeying(decision, seen), state)
        case Begun():
            return state.begun(event.change), None
        case Ended():
            change = event.change
            return (state.unchanged() if change is None else state.tried(change)), None
