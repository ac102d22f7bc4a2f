"""The nouns of the loop: what is seen, what is wanted, what was decided and why.

Three things are kept apart. *Desired* is what a decision wants; *applied* is what Triton accepted;
*observed* is what the metrics show. Times are seconds; an ``at_s`` is seconds since the epoch and
always an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from control.core.own import Own
from control.core.reasons import Clamp, Reason
from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics

MOST_BATCHED = 4096
"""Of the requests of one batch; the time of every size up to the largest is looked up in each
prediction. A config may name two thousand million."""


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
    own: Own = field(default_factory=Own)
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
    def sampled_s(self) -> float:
        """When the counters were true."""
        return self.at_s if self.counters_at_s is None else self.counters_at_s


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
class Proposal:
    """What one proposer would do about a look, before the guard, and how it is meant.

    Attributes:
        reason: why.
        settings: what is wanted; those in force for a hold.
        fresh: by a second copy, where an in-place update would do.
        adds_capacity: whether it is meant to carry more; None for "if it has more instances". Such
            a change waits for no cooldown and no budget of changes, and passes while the error
            budget burns: it only costs money, and waiting costs the SLO.
        undo: whether it takes back a change. It waits for no cooldown and no budget of reloads or
            changes, and may take any step down. One that failed waits twice as long before each
            further try. None goes back to what was taken back itself.
        trusted: whether any count may be acted upon; else one more than was ever seen.
        or_next: whether the next proposer is asked where the guard holds this one.
        clamps: what the proposer itself held back.
        terms: the proposer's own numbers, for people.
    """

    reason: Reason
    settings: Settings
    fresh: bool = False
    adds_capacity: bool | None = None
    undo: bool = False
    trusted: bool = False
    or_next: bool = False
    clamps: tuple[Clamp, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)


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
