"""How a scale up is made: in place, or by a second copy of the model.

Theory of operation. An instance that is added in place works on the queue that is there: until the
backlog is drained, new arrivals wait behind it, and Triton answers the call only then. A second
copy has a queue of its own, so new arrivals are on time as soon as it is loaded; what waited stays
with the old copy's instances, which work beside it until they are done. That needs room for both:
on cores that one copy fills, both work at a fraction of their speed. So what counts is for how long
arrivals will miss the SLO, either way.
Measured on 2 cores with MiniLM at 410 requests a second (1.25 times one instance): 0 to 49 requests
late in place, 100 to 419 by a second copy; on an emulated accelerator, whose instances share
nothing, late for 7.8 s in place and 3.4 s by a second copy (ADR 0004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from control.core.load.demand import Demand
from control.core.memory.state import ControlState
from control.core.queue_model.knowledge import Knowledge
from control.core.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUp:
    """A scale up that may be made either way.

    Attributes:
        rate_rps: the load.
        excess: requests that wait now, beyond the next round of batches.
        before_rps, after_rps: throughput at full batches of the old count and of the new one.
        both_rps: throughput of the old and the new count at the same time.
        share: the new count's share of both, less than 1.
        load_s: how long an instance takes to load in place.
        reload_s: how long a second copy takes.
        slo_s: the latency objective.
    """

    rate_rps: float
    excess: float
    before_rps: float
    after_rps: float
    both_rps: float
    share: float
    load_s: float
    reload_s: float
    slo_s: float

    @property
    def slowdown(self) -> float:
        """What two copies cost each other, loading too: 1 where they share nothing.

        Example: 1 and 2 instances on cores for 2 of them: 1.5.
        """
        if not 0.0 < self.both_rps < math.inf:
            return 1.0
        return max(1.0, self.before_rps / (1.0 - self.share) / self.both_rps)

    def late_in_place_s(self) -> float:
        """For how long new arrivals wait for more than half the SLO, when made in place."""
        waiting = self._backlog_in(self.load_s) - self.after_rps * self.slo_s / 2
        return self.load_s + _drained_s(waiting, self.after_rps - self.rate_rps)

    def late_by_copy_s(self) -> float:
        """Likewise by a second copy: over with its loading where it carries the load at once."""
        loading_s = self.reload_s * self.slowdown
        if self.both_rps * self.share >= self.rate_rps:
            return loading_s
        waiting = self._backlog_in(loading_s)
        return loading_s + _drained_s(waiting, self.both_rps - self.rate_rps)

    def by_copy(self) -> bool:
        """Whether a second copy is the better way.

        Never where the backlog does not outlive the loading. Where neither way ever drains it, a
        copy: the call in place would not return, and no other change could begin.
        """
        in_place_s = self.late_in_place_s()
        if in_place_s <= self.load_s:
            return False
        return math.isinf(in_place_s) or self.late_by_copy_s() < in_place_s

    def _backlog_in(self, seconds: float) -> float:
        """Requests that wait then, at the old count."""
        return self.excess + max(0.0, self.rate_rps - self.before_rps) * seconds


def _drained_s(waiting: float, spare_rps: float) -> float:
    """How long it takes to work off what waits; infinite without spare throughput."""
    if waiting <= 0:
        return 0.0
    return waiting / spare_rps if spare_rps > 0 else math.inf


def scale_up(
    state: ControlState,
    demand: Demand,
    known: Knowledge,
    applied: Settings,
    needed: int,
    *,
    load_s: float,
    panic: bool,
) -> ScaleUp:
    """The change from the applied count to the needed one, to see how it is made best."""
    before, after = applied.instances, max(needed, applied.instances)
    before_rps = known.throughput_rps(applied, before)
    return ScaleUp(
        rate_rps=demand.at_most_rps(before_rps, panic=panic),
        excess=demand.excess,
        before_rps=before_rps,
        after_rps=known.throughput_rps(applied, after),
        both_rps=known.throughput_rps(applied, before + after),
        share=after / (before + after),
        load_s=load_s,
        reload_s=state.reload_s(known.policy),
        slo_s=known.policy.slo_s,
    )
