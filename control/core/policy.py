"""The policy of a model, as the core knows it: what the owner wants, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass

MOST_INSTANCES = 1024
"""Of one model on one server; every count up to the policy's most is looked at in each decision."""
MIN_INSTANCES, MAX_INSTANCES, MAX_BATCH_SIZE = "min_instances", "max_instances", "max_batch_size"
"""Bounds of a policy that may be left unwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the owner of a model wants, and the bounds of what may be done for it.

    Attributes:
        slo_s: the latency that ``slo_target`` of the requests must meet (p99 ≤ slo_s).
        min_instances, max_instances: inclusive.
        max_batch_size: the largest that the model was verified with.
        cores: that the instances share; beyond them contention is assumed.
        margin_fraction: ε; capacity is what keeps p99 within (1 - ε) of the SLO.
        utilisation_limit: ρ; capacity is never above this share of the full-batch rate.
        fast_window_s, stable_window_s: averaging of the arrival rate.
        idle_cost: late requests that an instance costs for each hour in which nobody needs it; 0
            where nobody else has a use for what it takes.
        cooldown_s: least time between a change and the next scale down or rebatch.
        settle_s: measurements this soon after a change are not learnt from.
        stale_s: a gap longer than this between looks makes the older ones useless.
        rebatch: whether the slow knob may be used at all.
        reloads_per_hour: planned ones (batching, threads, cache), at most.
        copies_per_hour: second copies for a scale up of a saturated model, at most.
        blocked_s: how long a target that failed is not tried again.
        slo_target_fraction: share of the requests that must meet the SLO.
        weight: of this model where a budget is shared.
        versions: interchangeable ones, best quality first; empty switches the quality knob off.
        response_cache: whether the response cache may be switched on and off.
        changes_per_hour: of any kind, at most.
        load_s: how long an instance takes to load, until it was measured.
        watch_s, watch_requests: a change is judged after this long or so many requests.
        burn_limit: at this many times the budgeted rate of misses only capacity may be added.
        burn_long_s, burn_short_s: both windows must burn.
        burn_requests: fewer in the long window prove nothing.
        refuse_late: whether what would be late anyway is refused instead of answered late.
        calibrate: whether full batches may be sent to measure them: True also made-up ones and to
            an owner's Python model, False never; None where the inputs are like real ones.
        unwritten: names of the bounds here that nobody wrote down: ``core.bounds`` takes them from
            the owner's configuration.
    """

    slo_s: float
    min_instances: int = 1
    max_instances: int = 4
    max_batch_size: int = 32
    cores: int = 1
    margin_fraction: float = 0.1
    utilisation_limit: float = 0.95
    fast_window_s: float = 2.0
    stable_window_s: float = 6.0
    idle_cost: float = 0.0
    cooldown_s: float = 5.0
    settle_s: float = 3.0
    stale_s: float = 10.0
    rebatch: bool = True
    reloads_per_hour: int = 4
    copies_per_hour: int = 20
    blocked_s: float = 600.0
    slo_target_fraction: float = 0.99
    weight: float = 1.0
    versions: tuple[int, ...] = ()
    response_cache: bool = False
    changes_per_hour: int = 240
    load_s: float = 2.0
    watch_s: float = 30.0
    watch_requests: int = 500
    burn_limit: float = 14.4
    burn_long_s: float = 300.0
    burn_short_s: float = 30.0
    burn_requests: int = 200
    refuse_late: bool = False
    calibrate: bool | None = None
    unwritten: tuple[str, ...] = ()
