"""What one tick did, and the modes of a loop."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from control.action import Action
from control.core.types import Decision, Observation


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
