"""Pairs of runs over the same arrivals, with control and without, and what their difference says.

Attainment is the share of the offered requests that were answered within the SLO. Its interval is
that of ``slo.paired_interval``: few pairs give no interval of their own worth the name; it is told
beside it all the same.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from perf import slo
from perf.bench.never_worse.play import WARM_UP_S, Played, capacity_rps, play
from perf.bench.never_worse.subjects import SHARES, Kind, Subject
from perf.traces import Trace, steps

WAITS_LEAST = -0.005
"""The mean difference of a model that waits: what is lost by a hiccup of the machine in one arm."""
BURNS_LEAST = -0.02
"""The interval's lower end of a model that burns: control itself takes some of the same cores."""
# Student's t at 0.975, for 1 to 9 degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Verdict(enum.Enum):
    """What the pairs say of a model; without a valid one, nothing."""

    OK = "ok"
    WORSE = "worse"
    NOT_VALID = "not valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides over the same arrivals."""

    alone: Played
    controlled: Played

    @property
    def difference(self) -> float:
        """Attainment with control minus attainment without."""
        return self.controlled.attainment - self.alone.attainment

    @property
    def valid(self) -> bool:
        """Whether the client kept up in both."""
        return not (self.alone.invalid_reason or self.controlled.invalid_reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One model, all its pairs.

    Attributes:
        subject: which.
        capacity_rps: what its config carries; its load is a share of that.
        rates_rps: before and after the step.
        pairs: in the order played.
    """

    subject: Subject
    capacity_rps: float
    rates_rps: tuple[float, float]
    pairs: tuple[Pair, ...] = field(repr=False)

    @property
    def counted(self) -> tuple[Pair, ...]:
        """The valid pairs."""
        return tuple(pair for pair in self.pairs if pair.valid)

    @property
    def difference(self) -> float:
        """Mean over the valid pairs; nan without any."""
        return fmean(p.difference for p in self.counted) if self.counted else math.nan

    def by_blocks(self) -> tuple[float, float]:
        """The interval of the difference over blocks of seconds."""
        return block_interval(self.counted)

    def by_pairs(self) -> tuple[float, float]:
        """The interval of the difference over the pairs, by Student's t."""
        values = [pair.difference for pair in self.counted]
        if len(values) < 2:
            return (math.nan, math.nan)
        wide = _T[min(len(values) - 2, len(_T) - 1)] * stdev(values) / math.sqrt(len(values))
        return (fmean(values) - wide, fmean(values) + wide)

    @property
    def failed_more(self) -> int:
        """Requests answered with an error under control, minus those without, over valid pairs."""
        return sum(pair.controlled.failed - pair.alone.failed for pair in self.counted)

    @property
    def verdict(self) -> Verdict:
        """Whether control did harm.

        A request that fails under control and not without is harm, whatever the attainment says.
        """
        if not self.counted:
            return Verdict.NOT_VALID
        waits = self.subject.kind is Kind.WAITS
        lost = self.difference < WAITS_LEAST if waits else self.by_blocks()[0] <= BURNS_LEAST
        return Verdict.WORSE if lost or self.failed_more > 0 else Verdict.OK


def block_interval(pairs: Sequence[Pair], *, seed: int = 0) -> tuple[float, float]:
    """The interval of the difference of attainments over blocks of seconds; nan without pairs."""
    return slo.paired_interval(
        [(pair.alone.offered, pair.controlled.good - pair.alone.good) for pair in pairs], seed=seed
    )


def compare(
    subject: Subject,
    *,
    pairs: int,
    seconds: float,
    note: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Play the pairs, each side first in turn.

    Raises:
        ConchError: when a server does not start.
    """
    capacity = capacity_rps(subject)
    low, high = (share * capacity for share in SHARES[subject.kind])
    note(f"{subject.name}: carries {capacity:.0f} req/s, gets {low:.0f}, then {high:.0f}")
    made = []
    for number in range(pairs):
        trace = steps(((low, WARM_UP_S + seconds / 2), (high, seconds / 2)), seed=1 + number)
        sides = {
            controlled: _valid(subject, trace, controlled=controlled, note=note)
            for controlled in ((False, True) if number % 2 == 0 else (True, False))
        }
        made.append(Pair(alone=sides[False], controlled=sides[True]))
        note(
            f"{subject.name}: pair {number + 1} of {pairs}: alone "
            f"{sides[False].attainment:.2%}, under control {sides[True].attainment:.2%}"
        )
    return Compared(
        subject=subject, capacity_rps=capacity, rates_rps=(low, high), pairs=tuple(made)
    )


def _valid(
    subject: Subject, trace: Trace, *, controlled: bool, note: Callable[[str], None]
) -> Played:
    """One run, once more where the client fell behind."""
    seen = play(subject, trace, controlled=controlled)
    if seen.invalid_reason:
        note(f"{subject.name}: not valid ({seen.invalid_reason}), once more")
        seen = play(subject, trace, controlled=controlled)
    return seen
