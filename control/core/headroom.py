"""Headroom that is learnt: bursts that came before are held for while the error budget is spent.

Theory of operation. No forecast sees a burst that begins in a second, and an instance takes longer
to load than the SLO allows. What helps is capacity that is already there, and that costs money all
the time. So the controller (1) writes down each burst as a ratio to the level around it, once it is
over, and (2) reckons what the bursts on record would cost in missed requests, were they to come
again at that pace and find nothing held: each loses about the load time and what it takes to see
and drain it. Those that the error budget can pay for are left to it, the largest first; for the
largest of the others instances are held. A lasting step is no burst: the level after it is as high.
"""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

BURST_AT_LEAST = 1.25
AROUND_S = 45.0
CLOSE_S = 5.0
PEAK_S = 2.0
REMEMBERED_S = 900.0
LEAST_HORIZON_S = 300.0
SCALES_UP_TO = 4.0
"""A burst of more times its level has a size of its own, and does not grow with the level: 200/s
upon one a minute are no ×12,000."""
SHORT = 0.95
"""Of a burst's load; it is over before the queue of the rest matters."""
LEVEL_S, BLOCK_S = 60.0, 5.0
SURE_OF_CLIMB = 2.0
"""Standard errors of a Poisson load that are taken off a climb: noise is none."""


class Load(NamedTuple):
    """The load at one look: its mean over a few seconds, and what it was at least."""

    at_s: float
    mean_rps: float
    low_rps: float


class Burst(NamedTuple):
    """One that is over: its load, also as a ratio to the level around it."""

    at_s: float
    ratio: float
    peak_rps: float

    def again_rps(self, level_rps: float) -> float:
        """What it is at another level; never below that."""
        if self.ratio <= SCALES_UP_TO:
            return level_rps * self.ratio
        return max(level_rps, min(level_rps * self.ratio, self.peak_rps))


_MEAN = operator.attrgetter("mean_rps")
_LOW = operator.attrgetter("low_rps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What is remembered of bursts.

    Attributes:
        loads: of the last ticks, newest last.
        bursts: those that are over.
        since_s: when the record began.
    """

    loads: tuple[Load, ...] = ()
    bursts: tuple[Burst, ...] = ()
    since_s: float = 0.0

    @property
    def ratio(self) -> float:
        """The largest burst on record as a ratio to its level; 1 without one."""
        return max((burst.ratio for burst in self.bursts), default=1.0)

    def level_rps(self) -> float:
        """Median load of the last minute before the newest look; 0 without any."""
        if not self.loads:
            return 0.0
        newest = self.loads[_after(self.loads, self.loads[-1].at_s - LEVEL_S) :]
        return float(median(map(_MEAN, newest)))

    def climbed_rps(self) -> float:
        """The level where the last minute's climb has brought it; the median where it fell.

        By the slope of Theil and Sen, the median over all pairs of blocks of 5 s: a burst of 15 s
        makes next to no climb of it.
        """
        level_rps = self.level_rps()
        if not self.loads:
            return level_rps
        end_s = self.loads[-1].at_s
        blocks: list[tuple[float, float]] = []
        for index in range(round(LEVEL_S / BLOCK_S)):
            late_s = end_s - index * BLOCK_S
            block = self.loads[_after(self.loads, late_s - BLOCK_S) : _after(self.loads, late_s)]
            if block:
                blocks.append((late_s - BLOCK_S / 2, fmean(map(_MEAN, block))))
        slopes = [
            (later - earlier) / (later_s - earlier_s)
            for (later_s, later), (earlier_s, earlier) in itertools.combinations(blocks, 2)
        ]
        if not slopes:
            return level_rps
        middle_s = fmean(at_s for at_s, _ in blocks)
        spread_s2 = sum((at_s - middle_s) ** 2 for at_s, _ in blocks)
        error = SURE_OF_CLIMB * math.sqrt(level_rps / BLOCK_S / spread_s2)
        return level_rps + max(0.0, median(slopes) - error) * (end_s - middle_s)

    def held_rps(
        self,
        *,
        allowed_fraction: float,
        loss_s: float,
        carried_rps: float,
        at_s: float,
        most_rps: float = math.inf,
    ) -> float:
        """The load of the burst to hold instances for; 0 where the error budget pays for all.

        Args:
            allowed_fraction: of the requests may miss the SLO.
            loss_s: seconds of requests that a burst loses where nothing is held.
            carried_rps: what the instances that the level calls for carry anyway.
            at_s: now.
            most_rps: of the level; after a long burst the last minute's median is that burst.

        Example:
            Bursts of ×3 and ×2 in ten minutes, 6 s lost each: 3·6/600 = 3 % is more than 1 %, so
            ×3 is held for.
        """
        level_rps = min(self.level_rps(), most_rps)
        horizon_s = max(LEAST_HORIZON_S, min(REMEMBERED_S, at_s - self.since_s))
        if level_rps <= 0:
            return 0.0
        lost_fraction = 0.0
        for again_rps in sorted((b.again_rps(level_rps) for b in self.bursts), reverse=True):
            burst_rps = SHORT * again_rps
            if burst_rps <= carried_rps:
                break
            lost_fraction += again_rps / level_rps * loss_s / horizon_s
            if lost_fraction > allowed_fraction:
                return burst_rps
        return 0.0

    def update(self, *, at_s: float, mean_rps: float, low_rps: float) -> Headroom:
        """The memory with one more look."""
        horizon_s = at_s - 2 * AROUND_S - CLOSE_S
        kept = self.loads[_after(self.loads, horizon_s) : _from(self.loads, at_s)]
        loads = (*kept, Load(at_s, mean_rps, low_rps))
        bursts = tuple(b for b in self.bursts if at_s - REMEMBERED_S < b.at_s <= at_s)
        found = burst(loads, at_s=at_s)
        if found is not None:
            bursts = _with(bursts, found)
        return Headroom(loads=loads, bursts=bursts, since_s=self.since_s or at_s)


def burst(loads: Sequence[Load], *, at_s: float) -> Burst | None:
    """The burst where the load ``AROUND_S`` ago stood out of what was before and after it.

    The loads are in the order of time.

    The ratio is to the middle of both levels. None where it did not stand out, or the record is
    too short to tell.
    """
    middle_s = at_s - AROUND_S
    if not loads or loads[0].at_s > middle_s - AROUND_S + 2 * CLOSE_S:
        return None
    around = loads[_from(loads, middle_s - PEAK_S) : _after(loads, middle_s + PEAK_S)]
    before = loads[: _after(loads, middle_s - CLOSE_S)]
    after = loads[_from(loads, middle_s + CLOSE_S) :]
    if not around or not before or not after:
        return None
    surely_rps = float(median(map(_LOW, around)))
    levels_rps = 0.0
    for side in (before, after):
        level_rps = float(median(map(_MEAN, side)))
        if surely_rps < BURST_AT_LEAST * level_rps:
            return None
        levels_rps += level_rps
    if levels_rps <= 0:
        return None
    peak_rps = float(median(map(_MEAN, around)))
    return Burst(middle_s, 2.0 * peak_rps / levels_rps, peak_rps)


def _after(loads: Sequence[Load], at_s: float) -> int:
    """Index of the first load later than this; the loads are in the order of time."""
    return bisect_right(loads, (at_s, math.inf))


def _from(loads: Sequence[Load], at_s: float) -> int:
    """Index of the first load at this time or later."""
    return bisect_left(loads, (at_s,))


def _with(bursts: tuple[Burst, ...], found: Burst) -> tuple[Burst, ...]:
    """The record with a burst; the ticks of one burst are one entry, its highest."""
    if bursts and found.at_s - bursts[-1].at_s <= AROUND_S:
        last = bursts[-1]
        return (*bursts[:-1], Burst(*map(max, last, found)))
    return (*bursts, found)
