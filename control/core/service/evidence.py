"""What was seen of one setting (instances and threads): times by batch size, and how busy it was.

Theory of operation. Old evidence of a batch size is forgotten exponentially while new evidence
comes, but its mean is kept: a night of single requests must not wipe out what the day has taught
about large batches. Triton gives sums only, so the scatter of single batches is read from means:
two of n and m batches differ by a variance of σ²·(1/n + 1/m). The mean of a size is compared with
what the other sizes of the interval took, relative to what they usually take: what all batches of
a slow second share (``slow_seconds``) is no scatter. Without another size it is compared with
the interval before, which does not see a slow drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from control.core.service.curves import Point
from serving.statistics import BatchStat

HALF_LIFE_S = 30.0
KEPT_BATCHES = 5.0
"""The weight below which no evidence falls that once had it."""
LARGEST_SIZE = 1_000_000
MOST_BATCHES = 1e12
MOST_CHANGE = 1e3
SHORTEST_S, LONGEST_S = 1e-9, 1e6
"""Of a batch; what is outside is a fault of the counters."""
_LEAST = 1e-9


class Tally(NamedTuple):
    """Evidence of one batch size.

    Attributes:
        batches: seen, old ones decayed.
        mean_s: of their times.
        known: batches ever seen, at most KEPT_BATCHES.
        last_s, last_batches: mean and number of the newest interval.
        change2: decayed sum of squared relative differences of two means.
        inverse: decayed sum of 1/n + 1/m of the same pairs of means.
        pairs: decayed number of these pairs.
    """

    batches: float
    mean_s: float
    known: float
    last_s: float
    last_batches: float
    change2: float = 0.0
    inverse: float = 0.0
    pairs: float = 0.0


class Compared(NamedTuple):
    """Seconds that some batches took, that as many of their sizes took before, and their number."""

    busy_s: float
    usual_s: float
    batches: float


class Summary(NamedTuple):
    """All tallies of a setting.

    Attributes:
        points: what a curve is drawn through.
        batches: the weight of all of it.
        change2, inverse, pairs: sums over the tallies.
    """

    points: list[Point]
    batches: float
    change2: float
    inverse: float
    pairs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything seen of one setting.

    Attributes:
        sizes: by batch size.
        busy_s, span_s: decayed seconds of work, and of the time in which it was done.
        seen_s: on the learner's own clock, when it was last added to.
    """

    sizes: Mapping[int, Tally] = field(default_factory=dict)
    busy_s: float = 0.0
    span_s: float = 0.0
    seen_s: float = 0.0
    _summary: list[Summary] = field(default_factory=list, init=False, repr=False, compare=False)

    def absorb(self, batches: Mapping[int, BatchStat], *, span_s: float, seen_s: float) -> Evidence:
        """The evidence after these batches, all of which must be ``usable``."""
        keep = 0.5 ** (span_s / HALF_LIFE_S)
        beside = _beside(self.sizes, batches)
        sizes = {
            size: Tally(max(_LEAST, t[0] * keep), *t[1:5], t[5] * keep, t[6] * keep, t[7] * keep)
            for size, t in self.sizes.items()
        }
        busy_s = 0.0
        for size, stat in batches.items():
            busy_s += stat.busy_s
            mean_s = stat.busy_s / stat.count
            sizes[size] = _added(sizes.get(size), mean_s, float(stat.count), beside.get(size))
        return Evidence(
            sizes=sizes,
            busy_s=self.busy_s * keep + busy_s,
            span_s=self.span_s * keep + span_s,
            seen_s=seen_s,
        )

    def shifted(self, factor: float, before: Evidence | None) -> Evidence:
        """The same batches on a device that got slower by ``factor``.

        A size that was seen since ``before`` takes what it took then: it may have been learnt after
        the device got slower. Any other takes as many times as long as it did.
        """
        sizes, old = {}, before.sizes if before else {}
        for size, tally in self.sizes.items():
            was = old.get(size)
            fresh = was is None or was.last_s != tally.last_s
            mean_s = tally.last_s if fresh else tally.mean_s * factor
            sizes[size] = tally._replace(mean_s=mean_s, last_s=mean_s)
        return replace(self, sizes=sizes)

    @property
    def summary(self) -> Summary:
        """What a fit needs; made when it is first asked for."""
        if not self._summary:
            self._summary.append(_summed_up(self.sizes))
        return self._summary[0]

    def compared(self, batches: Mapping[int, BatchStat]) -> Compared:
        """What these batches took, and as many of their sizes until now.

        Of the sizes that enough batches are known of.
        """
        busy_s = usual_s = count = 0.0
        for size, stat in batches.items():
            known = self.sizes.get(size)
            if known is not None and known.known >= KEPT_BATCHES:
                busy_s += stat.busy_s
                usual_s += stat.count * known.mean_s
                count += stat.count
        return Compared(busy_s, usual_s, count)

    def active_beside(self, instances: int) -> float:
        """How many other instances were busy while one was, of ``instances``; at most all."""
        if self.span_s <= 0:
            return float(instances - 1)
        busy_fraction = min(1.0, self.busy_s / (instances * self.span_s))
        return (instances - 1) * busy_fraction


def usable(size: int, batches: float, busy_s: float) -> bool:
    """Whether this is evidence at all: numbers, and such as a batch can have.

    Example:
        >>> usable(8, 10, 0.5), usable(8, 10, float("nan")), usable(8, 10, 0.0)
        (True, False, False)
    """
    if not (1 <= size <= LARGEST_SIZE and 0 < batches <= MOST_BATCHES):
        return False
    return SHORTEST_S <= busy_s / batches <= LONGEST_S


class _Beside(NamedTuple):
    """The other sizes of an interval: their time as a ratio of the usual, 1 over their number."""

    ratio: float
    inverse: float


def _beside(sizes: Mapping[int, Tally], batches: Mapping[int, BatchStat]) -> dict[int, _Beside]:
    """By size, what the others did, where enough batches of them are known."""
    rows = {
        size: (float(stat.count), stat.busy_s, sizes[size].mean_s)
        for size, stat in batches.items()
        if size in sizes and sizes[size].known >= KEPT_BATCHES
    }
    count, busy_s = sum(n for n, _, _ in rows.values()), sum(s for _, s, _ in rows.values())
    usual_s = sum(n * mean_s for n, _, mean_s in rows.values())
    squares = sum(n * mean_s * mean_s for n, _, mean_s in rows.values())
    found = {}
    for size, (n, s, mean_s) in rows.items():
        rest_s = usual_s - n * mean_s
        if count - n >= KEPT_BATCHES and rest_s > 0.0:
            inverse = max(0.0, squares - n * mean_s * mean_s) / rest_s**2
            found[size] = _Beside(max(_LEAST, busy_s - s) / rest_s, inverse)
    return found


def _added(old: Tally | None, mean_s: float, count: float, beside: _Beside | None) -> Tally:
    """The tally with one more interval."""
    if old is None:
        return Tally(count, mean_s, min(KEPT_BATCHES, count), mean_s, count)
    total = old.batches + count
    merged_s = old.mean_s + (mean_s - old.mean_s) * count / total
    if beside is None:
        change, inverse = (mean_s - old.last_s) / merged_s, 1.0 / count + 1.0 / old.last_batches
    else:
        change = mean_s / old.mean_s / beside.ratio - 1.0
        inverse = 1.0 / count + beside.inverse + 1.0 / max(old.batches, old.known)
    return Tally(
        total,
        merged_s,
        min(KEPT_BATCHES, old.known + count),
        mean_s,
        count,
        old.change2 + min(change, MOST_CHANGE) ** 2,
        old.inverse + inverse,
        old.pairs + 1.0,
    )


def _summed_up(sizes: Mapping[int, Tally]) -> Summary:
    """The sums over these tallies."""
    points = []
    total = change2 = inverse = pairs = 0.0
    for size, tally in sizes.items():
        batches = max(tally.batches, tally.known)
        points.append(Point(size, tally.mean_s, batches))
        total += batches
        change2 += tally.change2
        inverse += tally.inverse
        pairs += tally.pairs
    return Summary(points, total, change2, inverse, pairs)
