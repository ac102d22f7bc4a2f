"""Conch's own rule: ``control.core.decision.decide``."""

from __future__ import annotations

from dataclasses import dataclass

from control.core.decision.decide import decide
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.types import Decision, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Conch:
    """Learn the queue, predict before acting, and be held by a guard."""

    name: str = "conch"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """See ``control.core.decision.decide.decide``."""
        return decide(state, seen, policy)
