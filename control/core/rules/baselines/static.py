"""Counts that never move: Triton's default, the most, a chosen one, and one for the mean rate.

``static-default`` is what Triton does without anybody: one instance, as the model was configured.
``static-max`` holds all instances that the policy allows.
``static`` holds a chosen count; with the count that a search over the same trace found it is the
best static choice in hindsight, which no operator can know beforehand.
``static-mean`` watches the first seconds and then holds the fewest instances that carry their mean
rate: capacity planning by averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules.baselines.carried import Carried
from control.core.rules.baselines.signals import absorbed, asked, held, no_data, trusted
from control.core.types import Decision, Observation

SOURCE = "Triton's own behaviour: an instance_group count is a constant"
GRID: Mapping[str, Sequence[float]] = {"count": tuple(range(1, 17))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """Hold a chosen number of instances.

    Attributes:
        count: instances, whatever the load.
    """

    name: str = "static"
    count: int = 1

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """Go to the count at the first trusted look, then hold."""
        state = absorbed(state, seen, policy)
        if seen.applied is None or not trusted(state, seen):
            return no_data(seen), state
        terms = {"count_instances": float(self.count)}
        return asked(state, seen, policy, seen.applied, count=self.count, terms=terms), state


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticDefault:
    """Hold one instance, as Triton does where nobody says otherwise."""

    name: str = "static-default"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """As ``Static`` with a count of one."""
        return Static(count=1).decide(state, seen, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticMax:
    """Hold all instances that the policy allows, as an operator does who has the room."""

    name: str = "static-max"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """As ``Static`` with a count of ``max_instances``."""
        return Static(count=policy.max_instances).decide(state, seen, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What ``static-mean`` remembers: the sample so far, then the count that it settled on."""

    arrivals: float = 0.0
    seconds: float = 0.0
    until_s: float = 0.0
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticMean:
    """Size once, to the mean rate of the first seconds.

    Attributes:
        sample_s: how long the rate is watched before the one decision.
    """

    name: str = "static-mean"
    sample_s: float = 60.0

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """Watch, size once, then hold."""
        state = absorbed(state, seen, policy)
        if seen.applied is None or not trusted(state, seen):
            return no_data(seen), state
        sample = state.memory if isinstance(state.memory, Sample) else Sample()
        newest = state.intervals[-1]
        if sample.count is None and newest.end_s > sample.until_s:
            sample = replace(
                sample,
                arrivals=sample.arrivals + newest.arrivals,
                seconds=sample.seconds + newest.span_s,
                until_s=newest.end_s,
            )
        mean_rps = sample.arrivals / sample.seconds
        terms = {"mean_rps": mean_rps, "sampled_s": sample.seconds}
        if sample.count is None and sample.seconds >= self.sample_s:
            carried = Carried(state=state, seen=seen, policy=policy, applied=seen.applied)
            if carried.is_known:
                sample = replace(sample, count=carried.fewest(mean_rps)[0])
        state = replace(state, memory=sample)
        if sample.count is None:
            return held(seen, Reason.HOLD_WARMING_UP, terms), state
        return asked(state, seen, policy, seen.applied, count=sample.count, terms=terms), state
