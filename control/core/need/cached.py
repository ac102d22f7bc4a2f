"""The response cache, on or off: by what its hits save.

Theory of operation. A hit saves the work of an instance for one request, and every request pays for
the look-up. Whether requests repeat cannot be seen from outside, so a trial finds out: the cache is
switched on, fills, and the hits of the next requests are counted (``cache_use``). A trial costs two
reloads, so there is one an hour at most, and only in good health; where requests do not repeat,
each further one is waited for twice as long, up to a day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from control.core.load.cache_use import CacheUse
from control.core.memory.state import ControlState
from control.core.need.wanted import Wanted
from control.core.policy import Policy
from control.core.queue_model.knowledge import Knowledge
from control.core.types import Observation, Settings

HOUR_S = 3600.0
"""How long a verdict counts, and what a reload is spread over."""
TRIAL_RELOADS = 2


ENDANGERED_FRACTION = 0.05
"""Of the requests that come while a copy loads. Reloads of small models beside 100 req/s showed one
spike of some 50 ms in 2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What one reload is.

    Attributes:
        seconds: how long it takes, as earlier ones did.
        instances: that are loaded anew.
        rate_rps: requests that come meanwhile.
        service_s: work of an instance for one request.
    """

    seconds: float
    instances: int
    rate_rps: float
    service_s: float

    def cost_s(self, policy: Policy) -> float:
        """Instance-seconds that it costs.

        Example:
            2 s for 1 instance beside 100 req/s of 5 ms each, of which 99 % must be in time: 2 s of
            the copy, and 10 requests that miss, worth 100 · 5 ms each: 7 instance-seconds.
        """
        missed = ENDANGERED_FRACTION * self.rate_rps * self.seconds
        return self.seconds * self.instances + missed * miss_s(self.service_s, policy)


def miss_s(service_s: float, policy: Policy) -> float:
    """What one miss is worth, in instance-seconds."""
    return service_s / max(1e-6, 1.0 - policy.slo_target_fraction)


def saved_s(hit_fraction: float, *, service_s: float, lookup_s: float) -> float:
    """Seconds that the cache saves a request on average; negative where it costs more.

    Example:
        One request in ten of 5 ms is a hit, and a look-up takes 50 µs: 450 µs.
    """
    return hit_fraction * service_s - lookup_s


def advise(
    use: CacheUse,
    *,
    on: bool,
    service_s: float,
    rate_rps: float,
    reload_cost_s: float,
    may_try: bool,
    at_s: float,
) -> bool | None:
    """Whether the cache should be on; None leaves it as it is.

    It goes on where it would pay for its reloads within the hour: by its hits where they are known,
    else, as a trial, if every request were one. It goes off when it does not even pay for its
    look-ups.

    Args:
        use: what is known.
        on: whether it is on now.
        service_s: work of an instance for one request.
        rate_rps: the load.
        reload_cost_s: instance-seconds of one reload (``Reload.cost_s``).
        may_try: whether a trial is allowed now.
        at_s: now.
    """
    if on:
        if use.hit_fraction is None:
            return None
        worth_s = saved_s(use.hit_fraction, service_s=service_s, lookup_s=use.lookup_s)
        return None if worth_s > 0 else False
    if use.absent or not may_try:
        return None
    known = use.hit_fraction is not None and abs(at_s - use.judged_s) < HOUR_S
    hits = use.hit_fraction if known and use.hit_fraction is not None else 1.0
    worth_s = saved_s(hits, service_s=service_s, lookup_s=use.lookup_s)
    return True if worth_s * rate_rps * HOUR_S > TRIAL_RELOADS * reload_cost_s else None


def switched(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted, known: Knowledge
) -> Settings | None:
    """The settings with the cache switched, where that is advised; before the guard.

    Only for models whose requests stand alone, which is when their batching may change, too: the
    answer within a sequence depends on what came before.
    """
    policy = known.policy
    if not policy.response_cache or not seen.can_rebatch:
        return None
    service_s, rate_rps = _service_s(state, applied, known), want.demand.stable_rps
    reload = Reload(
        seconds=state.reload_s(policy),
        instances=applied.instances,
        rate_rps=rate_rps,
        service_s=service_s,
    )
    advised = advise(
        state.cache,
        on=applied.response_cache,
        service_s=service_s,
        rate_rps=rate_rps,
        reload_cost_s=reload.cost_s(policy),
        may_try=_may_try(state, want, policy, at_s=seen.at_s),
        at_s=seen.at_s,
    )
    if advised is None or advised == applied.response_cache:
        return None
    return replace(applied, response_cache=advised)


def judged(state: ControlState, applied: Settings, known: Knowledge) -> ControlState:
    """The memory in which a trial has paid, where the newest block of its requests did."""
    use = state.cache
    if not (applied.response_cache and use.trials.failed_count) or use.hit_fraction is None:
        return state
    service_s = _service_s(state, applied, known)
    if saved_s(use.hit_fraction, service_s=service_s, lookup_s=use.lookup_s) <= 0:
        return state
    return replace(state, cache=replace(use, trials=use.trials.paid()))


def terms(state: ControlState, policy: Policy) -> Mapping[str, float]:
    """What is known of the cache, for ``Decision.terms``; nothing where it may not be switched."""
    use = state.cache
    if not policy.response_cache or use.hit_fraction is None:
        return {}
    return {
        "cache_hit_fraction": use.hit_fraction,
        "cache_lookup_s": use.lookup_s,
        "cache_absent": float(use.absent),
    }


def _may_try(state: ControlState, want: Wanted, policy: Policy, *, at_s: float) -> bool:
    """Whether health, the hour's reloads and how the last trials went allow another one."""
    if want.panic or want.overloaded or state.safety.burns or state.safety.watch is not None:
        return False
    if state.planned_reloads + TRIAL_RELOADS > policy.reloads_per_hour:
        return False
    return state.cache.trials.may_begin(at_s)


def _service_s(state: ControlState, applied: Settings, known: Knowledge) -> float:
    """Work of an instance for one request, in batches as large as they have lately been."""
    executed = sum(i.executions for i in state.intervals)
    size = sum(i.inferences for i in state.intervals) / executed if executed else 1.0
    batch = max(1, round(size))
    return known.service(applied.instances, applied.threads or known.threads).of(batch) / batch
