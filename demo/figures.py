"""What the runs come to: shares within the SLO, their difference, and the share at full quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perf import slo
from perf.replay_result import ReplayResult

UNDER_WAY_S, ANSWERED = 1.0, 5
"""Before the next fault: what is under way when it comes is its doing; so many more must answer."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One share within the SLO less another, on the same arrivals.

    Attributes:
        mean: of all requests.
        low, high: its 95 % interval.
    """

    mean: float
    low: float
    high: float


def within(run: ReplayResult, *, after_s: float = 0.0, but: Sequence[float] = ()) -> float:
    """Share (0 to 1) of the requests that were answered within the SLO; nan without any.

    Args:
        run: the replay.
        after_s: requests before are not counted.
        but: (begin, end) of a time that is not counted either, s.
    """
    kept = run.intended_s >= after_s
    if len(but):
        kept &= (run.intended_s < but[0]) | (run.intended_s >= but[1])
    good = run.latency_s[kept] <= run.slo_s
    return float(good.mean()) if good.size else float("nan")


def difference(
    ours: Sequence[ReplayResult], theirs: Sequence[ReplayResult], *, after_s: float, seed: int
) -> Difference:
    """Shares within the SLO, ours less theirs; its interval is ``slo.paired_interval``'s.

    Args:
        ours, theirs: runs of the same traces, in pairs.
        after_s: requests before are not counted.
        seed: of the draws.
    """
    pairs = []
    for mine, other in zip(ours, theirs, strict=True):
        kept = mine.intended_s >= after_s
        second = np.floor(mine.intended_s[kept] - after_s).astype(int)
        good = mine.latency_s[kept] <= mine.slo_s
        was_good = other.latency_s[kept] <= other.slo_s
        offered = np.bincount(second)
        gained = np.bincount(second[good], minlength=len(offered))
        pairs.append((offered, gained - np.bincount(second[was_good], minlength=len(offered))))
    low, high = slo.paired_interval(pairs, seed=seed)
    mean = sum(int(gained.sum()) for _, gained in pairs) / sum(int(o.sum()) for o, _ in pairs)
    return Difference(mean=mean, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How long the best version answered.

    Attributes:
        time: share of the run.
        requests: share of the requests, by what answered when they came.
        carried: share of the seconds in which the best version could have carried the load.
    """

    time: float
    requests: float
    carried: float


def quality(
    run: ReplayResult,
    served: Sequence[tuple[float, int]],
    best: int,
    *,
    rush: tuple[float, float],
) -> Quality:
    """Shares at full quality.

    Args:
        run: the replay.
        served: (since when, version), ascending; the first holds from the start.
        best: the best version's number.
        rush: when it begins and ends, s: the time that the best version cannot carry.
    """
    step_s = 0.05
    grid = np.arange(0.0, run.duration_s, step_s) + step_s / 2
    at_best = _at(grid, served) == best
    calm = (grid < rush[0]) | (grid >= rush[1])
    return Quality(
        time=float(at_best.mean()),
        requests=float((_at(run.intended_s, served) == best).mean()),
        carried=float(at_best[calm].mean()),
    )


def _at(times_s: Floats, served: Sequence[tuple[float, int]]) -> NDArray[np.int64]:
    """The version that answered at each time."""
    since = np.array([at_s for at_s, _ in served])
    versions = np.array([version for _, version in served])
    return versions[np.maximum(0, np.searchsorted(since, times_s, side="right") - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a fault cost.

    Attributes:
        what: the fault.
        at_s: when it was made, on the trace's clock.
        came: requests from then until the next fault.
        failed: of these, those that got an error or no answer.
        late: of these, those that were answered late.
        until_s: seconds until the last of the failed ones came; 0 without any.
        answers: whether the last ones before the next fault were answered.
    """

    what: str
    at_s: float
    came: int
    failed: int
    late: int
    until_s: float
    answers: bool


def lost(run: ReplayResult, faults: Sequence[tuple[float, str]]) -> list[Lost]:
    """What each fault cost: (at_s, what), ascending; requests belong to the last fault before."""
    ends = [at_s for at_s, _ in faults[1:]] + [run.duration_s]
    found = []
    for (at_s, what), end_s in zip(faults, ends, strict=True):
        mine = (run.intended_s >= at_s) & (run.intended_s < end_s)
        latency_s, came_s = run.latency_s[mine], run.intended_s[mine]
        failed = np.isinf(latency_s)
        last = failed[came_s < end_s - UNDER_WAY_S][-ANSWERED:]
        found.append(
            Lost(
                what=what,
                at_s=at_s,
                came=int(mine.sum()),
                failed=int(failed.sum()),
                late=int((~failed & (latency_s > run.slo_s)).sum()),
                until_s=float(came_s[failed].max() - at_s) if failed.any() else 0.0,
                answers=bool(last.size and not last.any()),
            )
        )
    return found
