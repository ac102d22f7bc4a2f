"""What a rule's releases cost, against the best release times in hindsight. Pure.

Theory of operation. An instance that nobody needs costs ``idle_cost`` late requests an hour. One
that was given back and is needed again costs all requests that come until it has loaded. Nobody
knows when that will be; in hindsight a dynamic program does. It has the same acquisitions: at each
look at least what the load surely called for, and whatever the rule added the moment it did. It is
free in when it gives instances back, and pays by the same prices.
Needed is what a look at the load says, not what loading or a backlog made of it, so it is the same
whatever was given back before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from control.core.need.hold import HOUR_S, SEEN_AND_DRAINED_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What counts cost, in late requests.

    Attributes:
        idle_cost: of an instance that nobody needs, for each hour.
        again: by count: of loading up to it, from whatever fewer.
    """

    idle_cost: float
    again: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """A run's releases and the best ones, in late requests.

    Attributes:
        idle, loading: what the rule's instances cost while idle, and what loading them cost.
        best: the least that both together could have cost.
        releases: how often the rule gave instances back.
    """

    idle: float
    loading: float
    best: float
    releases: int

    @property
    def ratio(self) -> float:
        """How many times the best the rule cost; 1 where both cost nothing."""
        spent = self.idle + self.loading
        return spent / self.best if self.best else (1.0 if not spent else math.inf)


def prices(capacities: Mapping[int, float], *, idle_cost: float, load_s: float) -> Prices:
    """The prices of the rule's own: all requests that a count carries, for as long as it loads."""
    again = {c: rps * (load_s + SEEN_AND_DRAINED_S) for c, rps in capacities.items()}
    return Prices(idle_cost=idle_cost, again=again)


def hindsight(
    had: Sequence[int], needed: Sequence[int], prices: Prices, *, tick_s: float
) -> Hindsight:
    """Compare the counts that a rule had with the best ones.

    Args:
        had: by look; each rise is an acquisition.
        needed: by look; what is more than the rule had does not count.
        prices: of all counts up to the most that it had.
        tick_s: between two looks.

    Example:
        One of two instances idle for 10 looks of 1 s, and then needed: 10 s · idle_cost / 3600 s.
        At a price above 360 · ``again[2]`` it is better given back at once.
    """
    rises = [now > before for before, now in zip((had[0], *had[:-1]), had, strict=True)]
    must = [h if rose else min(n, h) for h, n, rose in zip(had, needed, rises, strict=True)]
    idle = prices.idle_cost * tick_s / HOUR_S
    return Hindsight(
        idle=idle * sum(h - n for h, n in zip(had, must, strict=True)),
        loading=sum(prices.again[h] for h, rose in zip(had, rises, strict=True) if rose),
        best=_best(must, had[0], prices.again, idle=idle),
        releases=sum(now < before for before, now in itertools.pairwise(had)),
    )


def _best(must: Sequence[int], first: int, again: Mapping[int, float], *, idle: float) -> float:
    """The least cost of counts that are never below ``must``, and rise only to it.

    By look, ``cost[c]`` is the least so far with c instances: fewer than before are free, more are
    loaded where they must be.
    """
    counts = np.arange(max(*must, first) + 1)
    cost = np.where(counts == first, 0.0, np.inf)
    for least in must:
        cost = np.minimum.accumulate(cost[::-1])[::-1]  # give back, down to any count
        if least:
            cost[least] = min(cost[least], cost[:least].min() + again.get(least, 0.0))
            cost[:least] = np.inf
        cost += idle * np.maximum(counts - least, 0)
    return float(cost.min())
