"""What one tick did, in a value and in the log; and the modes of a loop."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import structlog

from conch.log import Repeated
from control.action import Action
from control.core.types import Decision, Observation

log = structlog.get_logger()


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
class Telling:
    """Log lines of decisions; ``mode`` is the loop's."""

    mode: Mode
    _last_reason: dict[str, str] = field(default_factory=dict)
    _short: Repeated = field(default_factory=lambda: Repeated(log))

    def decided(self, model: str, decision: Decision) -> None:
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

    def lacks(self, lacks_bytes: int) -> None:
        """A line now and then while the budget's memory does not even hold all at their least."""
        if lacks_bytes <= 0:
            self._short.over("budget.too_small", said="budget.enough")
            return
        hint = "Raise memory_mib in the policy's budget, or control fewer models."
        self._short.seen("budget.too_small", lacks_mib=-(-lacks_bytes // 2**20), hint=hint)
