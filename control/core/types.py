"""The nouns of the loop: what is seen, what is wanted, what was decided and why.

Three things are kept apart. *Desired* is what a decision wants; *applied* is what Triton accepted;
*observed* is what the metrics show. Times are seconds; an ``at_s`` is seconds since the epoch and
always an argument.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics

MOST_INSTANCES = 1024
"""Of one model on one server; every count up to the policy's most is looked at in each decision."""
MOST_BATCHED = 4096
"""Of the requests of one batch; the time of every size up to the largest is looked up in each
prediction. A config may name two thousand million."""
MIN_INSTANCES, MAX_INSTANCES, MAX_BATCH_SIZE = "min_instances", "max_instances", "max_batch_size"
"""Bounds of a policy that may be left unwritten."""
BATCHED_REQUESTS = 1.05
"""Items per request in the counters, beyond which requests bring batches of their own: those of one
scrape are not of one instant."""


class Reason(enum.Enum):
    """Why a decision is what it is. Each has a row in docs/reference/reasons.md and a test."""

    HOLD_NO_DATA = "hold: data is missing, stale or was reset"
    HOLD_IDLE = "hold: nobody has asked this model anything yet"
    HOLD_WARMING_UP = "hold: the first stable window is not full"
    HOLD_STEADY = "hold: the capacity fits the load"
    HOLD_QUIET_TIME = "hold: smaller would do, but loading again may cost more than holding"
    HOLD_CONTRADICTED = "hold: the counters and the statistics of the server contradict each other"
    HOLD_FROZEN = "hold: a person froze this model"
    HOLD_EDITED = "hold: config.pbtxt was edited by hand and is not in force"
    HOLD_RULE = "hold: the rule is content with what is applied"
    SCALE_UP_LOAD = "scale up: the load needs more capacity"
    SCALE_UP_BACKLOG = "scale up: the waiting requests endanger the SLO"
    SCALE_UP_RESERVE = "scale up: more instances carry more, and nobody else needs their room"
    SCALE_DOWN = "scale down: an idle instance has cost as much as loading it again"
    SCALE_BY_RULE = "scale: the rule asks for another instance count"
    ROLLBACK = "rollback: the last change made things worse"
    QUALITY_DOWN = "quality down: a cheaper version, as no allowed count carries the load"
    QUALITY_STANDBY = "quality: the cheaper version is loaded beside, to take over at once"
    QUALITY_UP = "quality up: the better version carries the load again"
    CACHE_SWITCH = "response cache: switched by what its hits save"
    REBATCH = "rebatch: the base configuration, by what full batches were measured to take"
    OUT_OF_BOUNDS = "out of bounds: the applied count is not what the policy allows"
    AT_LIMIT = "at the limit: the load needs more than the policy allows"
    OVER_BUDGET = "over budget: others need the instances or the memory beyond this model's share"
    HOLD_LOOK_AGAIN = "hold: the load jumped within this look, the next one shows how far"
    SCALE_UP_BURSTS = "scale up: bursts as they came before would need more capacity"


class Clamp(enum.Enum):
    """What the guard did to a proposal. Each has a row in docs/reference/reasons.md and a test."""

    MIN_INSTANCES = "raised to min_instances"
    MAX_INSTANCES = "lowered to max_instances"
    COOLDOWN = "held: too soon after the last change"
    RELOAD_BUDGET = "held: the hour's reloads are spent"
    BLOCKED = "held: this target failed a short while ago"
    BUDGET = "lowered to this model's share of the budget"
    PROBE = "lowered to one instance more than was ever seen"
    MEMORY = "held: there is not enough free memory for another copy"
    BURN_RATE = "held: the error budget burns too fast for a change that could make it worse"
    CHANGE_BUDGET = "held: the hour's changes are spent"
    CHANGE_IN_FLIGHT = "held: a change is in flight"
    STEP_DOWN = "made a smaller step down"
    FROZEN = "held: a person froze this model"


RETIRED = frozenset({Reason.HOLD_LOOK_AGAIN, Reason.SCALE_UP_BURSTS, Clamp.STEP_DOWN, Clamp.FROZEN})
"""Of earlier versions, whose journals can be read; no decision has them any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of one model: what can be desired, applied, or compared.

    Attributes:
        instances: in total.
        max_batch_size: largest batch; 0 for a model without a batch axis.
        dynamic_batching: whether Triton joins requests.
        max_queue_delay_s: how long the batcher may wait.
        threads: of one instance, where the config says so; None leaves it to the backend.
        version: that answers, the highest served; None where the version policy names none.
        standby: lower versions that are loaded beside it: one of them answers at once when those
            above it are dropped.
        response_cache: whether Triton answers repeated requests from its cache.
        refuse_after_s: requests that have waited for longer are refused; None lets them wait.
    """

    instances: int
    max_batch_size: int
    dynamic_batching: bool
    max_queue_delay_s: float
    threads: int | None = None
    version: int | None = None
    standby: tuple[int, ...] = ()
    response_cache: bool = False
    refuse_after_s: float | None = None

    @property
    def largest_batch(self) -> int:
        """The largest batch that an instance can be given from single requests, as is predicted."""
        return min(MOST_BATCHED, max(1, self.max_batch_size)) if self.dynamic_batching else 1

    def same_but_count(self, other: Settings) -> bool:
        """Whether they differ in nothing but the instance count: no reload is needed between."""
        return replace(self, instances=other.instances) == other

    def in_place_of(self, other: Settings) -> bool:
        """Whether they differ in nothing but the instance count and the versions: no reload."""
        versions = replace(self, version=other.version, standby=other.standby)
        return versions.same_but_count(other)

    @property
    def loaded(self) -> tuple[int | None, ...]:
        """The versions in memory."""
        return (*self.standby, self.version)

    def loads_beside(self, other: Settings) -> int:
        """How many instances are loaded while ``other`` is in force: all that it has not."""
        if not self.in_place_of(other):
            return len(self.loaded) * self.instances
        kept = len(set(self.loaded) & set(other.loaded))
        added = max(0, self.instances - other.instances)
        return (len(self.loaded) - kept) * self.instances + kept * added

    @property
    def full_round(self) -> int:
        """How many single requests all instances take at once; more than that wait."""
        return self.largest_batch * self.instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Requests that the controller itself sent to a model, to measure it; running totals.

    Attributes:
        requests, rows, seconds: answered ones, their items, and what they took.
        requests_loaded, rows_loaded: of these, since the model was loaded last.
    """

    requests: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    requests_loaded: float = 0.0
    rows_loaded: float = 0.0

    def plus(self, *, rows: int, seconds: float) -> Own:
        """With one more request."""
        return Own(
            requests=self.requests + 1,
            rows=self.rows + rows,
            seconds=self.seconds + seconds,
            requests_loaded=self.requests_loaded + 1,
            rows_loaded=self.rows_loaded + rows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at one model. A part that could not be read is None: it can only ever hold.

    Attributes:
        at_s: when it was taken.
        tick_id: traces this look through journal, log and plots.
        counters: from ``/metrics`` or Prometheus.
        statistics: from ModelStatistics: the only source of service times.
        applied: what Triton says is in force.
        threads: that one instance works with, configured or by the backend's default.
        threads_ours: whether the model runs on the CPU by a backend whose threads we may set.
        can_rebatch: whether its batching may change without changing what it means.
        may_refuse: whether a limit of the waiting may be set: it has no other queue policy.
        granularity: instances come in multiples of this (the GPUs of its group).
        counters_at_s: when the counters were sampled; the observation's own time where None.
        least_batch_size: the largest ``max_batch_size`` of the ensembles that the model is in; with
            a smaller one of its own Triton would refuse them. 1 outside of ensembles.
        versions: on disk, ascending.
        arrivals: running total of requests as a gateway in front of Triton counts them; None
            without one.
        request_p99_s: p99 of the request time by Triton's own summaries, where they are on.
        cpu_fraction: of the whole machine, 0 to 1.
        memory_free_bytes: of the machine (CPU) or the model's GPU.
        memory_copy_bytes: what one more instance is expected to take.
        gpu_fraction: use of the model's busiest GPU, 0 to 1.
        cap: the model's share of the budget, in instances; None without a budget.
        frozen: a person forbade changes.
        edited: a person edited the config on disk, and it is not in force.
        owner: the settings of the owner's own configuration; None where nobody knows them.
        cpu_s: running total of the CPU seconds that the model's own processes used; None where it
            cannot be seen.
        own: what the controller itself sent; counters and statistics have it, too.
        slots: executions at once on each device, shared with other models; None where this one asks
            for none, or nobody knows of any.
        version_bytes: what one instance of each version is expected to take.
        may_load: the versions that the budget's memory lets the model hold at once; None where it
            sets no limit.
    """

    at_s: float
    tick_id: str
    counters: ModelCounters | None
    statistics: ModelStatistics | None
    applied: Settings | None
    threads: int = 1
    threads_ours: bool = False
    can_rebatch: bool = True
    may_refuse: bool = True
    granularity: int = 1
    counters_at_s: float | None = None
    least_batch_size: int = 1
    versions: tuple[int, ...] = ()
    arrivals: float | None = None
    request_p99_s: float | None = None
    cpu_fraction: float | None = None
    memory_free_bytes: int | None = None
    memory_copy_bytes: int | None = None
    gpu_fraction: float | None = None
    cap: int | None = None
    frozen: bool = False
    edited: bool = False
    owner: Settings | None = None
    cpu_s: float | None = None
    own: Own = Own()  # a frozen value
    slots: int | None = None
    version_bytes: Mapping[int, int] = field(default_factory=dict)
    may_load: tuple[int, ...] | None = None

    @property
    def most_by_slots(self) -> int | None:
        """The most instances with which the model leaves a slot of each device to others."""
        if self.slots is None:
            return None
        return max(1, self.slots - 1) * self.granularity

    @property
    def least_batch_limit(self) -> int:
        """The smallest ``max_batch_size`` with which Triton refuses no request that comes.

        One that brings a batch of its own may be as large as the limit in force: sums do not tell.
        """
        counters, loaded, applied, own = self.counters, self.statistics, self.applied, self.own
        if applied is None:
            return self.least_batch_size
        # Since the last load, of one instant; and since the server started.
        now = loaded is not None and loaded.inference_count - own.rows_loaded > (
            loaded.success_count - loaded.cache_hits - own.requests_loaded
        )
        ever = counters is not None and counters.inference_count - own.rows > (
            BATCHED_REQUESTS * (counters.success - counters.cache_hits - own.requests)
        )
        return max(self.least_batch_size, applied.max_batch_size if now or ever else 1)

    @property
    def sampled_s(self) -> float:
        """When the counters were true."""
        return self.at_s if self.counters_at_s is None else self.counters_at_s


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The instances that a model's load calls for.

    Attributes:
        rate_rps: mean arrivals over the fast window.
        needed: the fewest instances that carry the load; the most useful where none does.
        hold: the most that were needed while what an instance costs idle is less than loading it
            again would; of the last half minute where idle instances cost nothing.
        goal: what to have where no other model needs the room; at least ``needed``.
        capacities: Λ in requests/s by instance count.
        by_version: the same of each version, where the budget decides which one may be held.
        load_s: how long an instance takes to load; 0 where it is not told.
    """

    rate_rps: float
    needed: int
    hold: int
    goal: int
    capacities: Mapping[int, float]
    by_version: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    load_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, why, and every number that led there.

    Attributes:
        tick_id, at_s: of the observation.
        reason: one of the enum.
        applied: what was in force; None when it was not known.
        desired: what to apply; equal to ``applied`` for a hold.
        fresh: apply it by a full reload even where an in-place update would do. A saturated model
            can starve an in-place update for many seconds; a second copy has a queue of its own.
        need: what the load calls for; None where this look does not tell.
        terms: the numbers of the formula, by name with unit suffix, for people.
        clamps: what the guard changed, in order.
        may_act_at_s: when the guard allows the next change.
    """

    tick_id: str
    at_s: float
    reason: Reason
    applied: Settings | None
    desired: Settings | None
    fresh: bool = False
    need: Need | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    clamps: tuple[Clamp, ...] = ()
    may_act_at_s: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to apply."""
        return self.desired is not None and self.desired != self.applied
