"""What is remembered of a model's response cache: whether its hits were counted, and what they are.

The first requests fill a cache and prove nothing. After that every block of requests is a verdict
of its own, so that a change of the traffic shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.core.windows import Interval

BLOCK_REQUESTS = 500
LOOKUP_S = 50e-6
"""Of one request, where no server has told: hashing and copying of a small tensor."""


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

    def absorb(self, new: Interval | None, *, on: bool, at_s: float, fill_s: float) -> CacheUse:
        """The memory with one more look.

        Args:
            new: the interval that ends with it; None for a gap.
            on: whether the settings in force have the cache on.
            at_s: of the look.
            fill_s: so long, and one block, requests only fill the cache.
        """
        if on and not self.on:
            return CacheUse(on=True, since_s=at_s)
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
