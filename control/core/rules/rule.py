"""What every way to decide has in common: Conch's own rule and the baselines."""

from __future__ import annotations

from typing import Protocol

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.types import Decision, Observation


class Rule(Protocol):
    """A way to decide. A frozen dataclass whose fields are its options; pure."""

    @property
    def name(self) -> str:
        """As users write it: ``conch``, ``hpa-utilisation``, ..."""
        ...

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """The decision for this look, and the memory for the next one."""
        ...
