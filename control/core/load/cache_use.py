"""What is remembered of a model's response cache: whether its hits were counted, and what they are.

The first requests fill a cache and prove nothing. After that every block of requests is a verdict
of its own, so that a change of the traffic shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from control.core.load.windows import Interval

BLOCK_REQUESTS = 500
LOOKUP_S = 50e-6
"""Of one request, where no server has told: hashing and copying of a small tensor."""


FIRST_WAIT_S = 3600.0
"""From one trial to the next, at least."""
MOST_WAIT_S = 86_400.0
MOST_DOUBLED = 10
"""Times that the wait is doubled; it is far beyond any limit then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """When the cache was switched on to see whether it pays, and how that went.

    Attributes:
        failed_count: trials in a row that did not pay. One counts as failed until a block of
            requests has paid: also one that Triton refused, or that was taken back unjudged.
        begun_s: when the last one began; None before the first.
    """

    failed_count: int = 0
    begun_s: float | None = None

    def begun(self, at_s: float) -> Trials:
        """After one more."""
        return Trials(failed_count=self.failed_count + 1, begun_s=at_s)

    def paid(self) -> Trials:
        """After a block of requests that paid."""
        return replace(self, failed_count=0)

    def set_back(self, at_s: float) -> Trials:
        """After the clock was set back to ``at_s``: none began later than now."""
        begun_s = self.begun_s
        return self if begun_s is None else replace(self, begun_s=min(begun_s, at_s))

    @property
    def wait_s(self) -> float:
        """From the last one to the next: twice as long after each in a row that failed."""
        doubled = min(max(0, self.failed_count - 1), MOST_DOUBLED)
        return min(MOST_WAIT_S, FIRST_WAIT_S * 2.0**doubled)

    def may_begin(self, at_s: float) -> bool:
        """Whether another one may begin."""
        return self.begun_s is None or at_s >= self.begun_s + self.wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """Memory of one model's response cache.

    Attributes:
        on: whether it was on at the last look.
        since_s: when it was first seen on.
        filling: whether the requests that are counted still fill it.
        requests, hits, lookups, cache_s: of the block that is counted.
        hit_fraction: of the newest whole block; None while nothing is known.
        lookup_s: what a request cost in that block.
        judged_s: when that block ended.
        absent: whether the server turned out to have no cache; Triton does not say so.
        trials: how often it was switched on in vain.
    """

    on: bool = False
    since_s: float = 0.0
    filling: bool = True
    requests: float = 0.0
    hits: float = 0.0
    lookups: float = 0.0
    cache_s: float = 0.0
    hit_fraction: float | None = None
    lookup_s: float = LOOKUP_S
    judged_s: float = 0.0
    absent: bool = False
    trials: Trials = field(default_factory=Trials)

    def absorb(self, new: Interval | None, *, on: bool, at_s: float, fill_s: float) -> CacheUse:
        """The memory with one more look.

        Args:
            new: the interval that ends with it; None for a gap.
            on: whether the settings in force have the cache on.
            at_s: of the look.
            fill_s: so long, and one block, requests only fill the cache.
        """
        if on and not self.on:
            return CacheUse(on=True, since_s=at_s, trials=self.trials)
        if not on:
            return replace(self, on=False) if self.on else self
        if new is None:
            return self
        known = replace(
            self,
            requests=self.requests + new.completed,
            hits=self.hits + new.cache_hits,
            lookups=self.lookups + new.cache_hits + new.cache_misses,
            cache_s=self.cache_s + new.cache_s,
        )
        if known.requests < BLOCK_REQUESTS:
            return known
        counted = replace(known, requests=0.0, hits=0.0, lookups=0.0, cache_s=0.0)
        if known.filling and known.lookups:
            return replace(counted, filling=abs(at_s - known.since_s) < fill_s)
        return replace(
            counted,
            hit_fraction=min(1.0, known.hits / known.requests),
            lookup_s=known.cache_s / known.lookups if known.cache_s and known.lookups else LOOKUP_S,
            judged_s=at_s,
            absent=known.lookups <= 0,
        )
