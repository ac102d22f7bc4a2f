"""What every baseline sees, and how what it asks for becomes a decision.

The originals watch pods; here an instance is the pod. All of them get the same look, the same
bounds and the same actuator as Conch, and one change at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from control.core.decision.facts import Facts
from control.core.decision.guard import guard
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from control.core.types import Decision, Observation, Proposal, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Means over the intervals that end within a window.

    Attributes:
        span_s: that the intervals cover; may be a tick longer than the window.
        rate_rps: arrivals per second.
        utilisation_fraction: busy seconds of the instances over the seconds that they had; only
            intervals whose executions are known count.
        executing_count: batches in execution times their size: requests that are being worked on.
        pending_count: requests that wait.
        queue_compute_ratio: seconds in the queue per second in inference; 0 without an answer.
        request_s: mean time of the requests that were answered; 0 without one.
    """

    span_s: float
    rate_rps: float
    utilisation_fraction: float
    executing_count: float
    pending_count: float
    queue_compute_ratio: float
    request_s: float

    @property
    def in_flight_count(self) -> float:
        """Requests that wait or are being worked on."""
        return self.executing_count + self.pending_count

    @property
    def terms(self) -> dict[str, float]:
        """The numbers by name."""
        return {
            "window_span_s": self.span_s,
            "rate_rps": self.rate_rps,
            "utilisation_fraction": self.utilisation_fraction,
            "executing_count": self.executing_count,
            "pending_count": self.pending_count,
            "queue_compute_ratio": self.queue_compute_ratio,
            "request_s": self.request_s,
        }


def signals(state: ControlState, at_s: float, window_s: float) -> Signals | None:
    """Means over the last ``window_s`` before ``at_s``; None when no interval ends in it.

    Example:
        Two instances that worked 1.2 s together in an interval of 1 s have a utilisation of 0.6;
        had they worked on batches of 4, then 4.8 requests were in execution on average.
    """
    inside = [i for i in state.intervals if at_s - window_s < i.end_s <= at_s]
    span_s = sum(i.span_s for i in inside)
    if span_s <= 0:
        return None
    known = [i for i in inside if i.statistics is not None]
    had_s = sum(i.instances * i.span_s for i in known)
    known_s = sum(i.span_s for i in known)
    held_s = sum(
        size * stat.busy_s
        for i in known
        if i.statistics is not None
        for size, stat in i.statistics.batches.items()
    )
    completed = sum(i.completed for i in inside)
    compute_s = sum(i.compute_s for i in inside)
    return Signals(
        span_s=span_s,
        rate_rps=sum(i.arrivals for i in inside) / span_s,
        utilisation_fraction=sum(i.busy_s for i in known) / had_s if had_s else 0.0,
        executing_count=held_s / known_s if known_s else 0.0,
        pending_count=sum(i.pending * i.span_s for i in inside) / span_s,
        queue_compute_ratio=sum(i.queue_s for i in inside) / compute_s if compute_s else 0.0,
        request_s=sum(i.request_s for i in inside) / completed if completed else 0.0,
    )


def absorbed(
    state: ControlState, seen: Observation, policy: Policy, *, window_s: float = 0.0
) -> ControlState:
    """The memory with this look; intervals are kept for at least ``window_s``."""
    return state.absorb(seen, policy, keep_s=window_s)


def trusted(state: ControlState, seen: Observation) -> bool:
    """Whether the newest interval ends at this look's sample and every part of it was read."""
    parts = (seen.counters, seen.statistics, seen.applied)
    if any(part is None for part in parts) or not state.intervals:
        return False
    return state.intervals[-1].end_s == seen.sampled_s


def no_data(seen: Observation, terms: Mapping[str, float] | None = None) -> Decision:
    """Hold, as the look cannot be trusted."""
    return held(seen, Reason.HOLD_NO_DATA, terms or {})


def held(seen: Observation, reason: Reason, terms: Mapping[str, float]) -> Decision:
    """A decision that keeps what is applied."""
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=reason,
        applied=seen.applied,
        desired=seen.applied,
        terms=dict(terms),
    )


def asked(
    state: ControlState,
    seen: Observation,
    policy: Policy,
    applied: Settings,
    *,
    count: int,
    terms: Mapping[str, float],
    settings: Settings | None = None,
    short: bool = False,
) -> Decision:
    """What the rule asks for, as far as the guard lets it: the same one for every rule.

    A scale up of a saturated model is made by a second copy, as Conch's is: Triton lets an in-place
    one wait while the queue is never empty, and no original has to suffer that.

    Args:
        state: for what was tried of late.
        seen: for the cap, the granularity, the memory and the freeze.
        policy: for the guard.
        applied: what is in force.
        count: instances that the rule wants, before the bounds.
        terms: every number that the rule used.
        settings: batching that the rule wants; as applied where None.
        short: no allowed count carries the load.
    """
    least, most = policy.min_instances, policy.max_instances
    wanted = replace(settings or applied, instances=min(max(count, least), most))
    clamps = (Clamp.MIN_INSTANCES,) if count < least else ()
    clamps = (Clamp.MAX_INSTANCES,) if count > most else clamps
    facts = Facts(state=state, seen=seen, applied=applied, policy=policy)
    fresh = wanted.instances > applied.instances and _is_saturated(seen, applied)
    proposal = Proposal(reason=Reason.SCALE_BY_RULE, settings=wanted, fresh=fresh, clamps=clamps)
    guarded = guard(proposal, facts)
    changes = guarded.settings != applied
    limits = (Clamp.MAX_INSTANCES, Clamp.BUDGET)
    at_limit = not changes and (short or any(clamp in guarded.clamps for clamp in limits))
    held = Reason.AT_LIMIT if at_limit else Reason.HOLD_RULE
    return Decision(
        tick_id=seen.tick_id,
        at_s=seen.at_s,
        reason=Reason.SCALE_BY_RULE if changes else held,
        applied=applied,
        desired=guarded.settings,
        fresh=guarded.fresh,
        terms={
            **terms,
            "wanted_instances": float(count),
            "applied_instances": float(applied.instances),
        },
        clamps=guarded.clamps,
        may_act_at_s=guarded.may_act_at_s,
    )


def _is_saturated(seen: Observation, applied: Settings) -> bool:
    """Whether more waits than the next round of batches takes."""
    waiting = seen.counters.pending if seen.counters is not None else 0.0
    return waiting > applied.full_round
