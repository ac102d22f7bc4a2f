"""Each mechanism, and how the controller goes without it.

A mechanism is taken out by another value for one name of the core while a run is simulated; nothing
of the controller knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

from control.core.judgement.safety import Safety
from control.core.load import demand
from control.core.load.demand import Demand
from control.core.memory.state import ControlState
from control.core.need import wanted
from control.core.need.second_copy import ScaleUp
from control.core.policy import Policy
from control.core.service.slow_seconds import SlowSeconds
from control.core.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """Something that may be left out.

    Attributes:
        without: what is done instead, for the table.
        names: (object, attribute, value in its place).
    """

    without: str
    names: tuple[tuple[Any, str, Any], ...]


def _one(without: str, owner: Any, name: str, value: Any) -> Mechanism:
    """A mechanism that is one name."""
    return Mechanism(without=without, names=((owner, name, value),))


_GOAL = wanted._goal


def _no_recall(
    state: ControlState, applied: Settings, capacities: Any, hold: int, policy: Policy
) -> int:
    """The goal without what was needed earlier and is not there."""
    return _GOAL(state, applied, capacities, min(hold, applied.instances), policy)


def _never_judged(self: Safety, policy: Any, *, at_s: float) -> Safety:
    """A change that nobody judges."""
    del policy, at_s
    return self


MECHANISMS: Mapping[str, Mechanism] = MappingProxyType(
    {
        "windows": _one("one window of 2 s", demand, "WINDOWS", ((2.0, 2.0),)),
        "jumps": _one("a jump must be as sure as noise", demand, "JUMPED", 1.0),
        "likely rate": _one(
            "sized for the lower bound", Demand, "sized_rps", lambda self, _: self.load_rps
        ),
        "dispersion": _one("every stream is Poisson", demand, "dispersion", lambda _: 1.0),
        "second copies": _one("always in place", ScaleUp, "by_copy", lambda _: False),
        "recall": _one("only what is there is held", wanted, "_goal", _no_recall),
        "slow seconds": _one(
            "all seconds are alike", SlowSeconds, "slower", property(lambda _: 1.0)
        ),
        "loading times": _one(
            "the policy's word", ControlState, "load_s", lambda _, policy: policy.load_s
        ),
        "judge": _one("nothing is judged", Safety, "_judged", _never_judged),
    }
)
"""By the name in the table."""


@contextmanager
def without(name: str) -> Iterator[None]:
    """Run the block without this mechanism; with all of them for an empty name."""
    with ExitStack() as stack:
        for owner, attribute, value in MECHANISMS[name].names if name else ():
            stack.enter_context(mock.patch.object(owner, attribute, value))
        yield
