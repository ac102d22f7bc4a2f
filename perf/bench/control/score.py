"""What a run is worth: how many requests met the SLO, at which cost, and how calmly. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perf import slo
from perf.bench.control.run import ChangeMade, ControlRun
from perf.traces import RateFunction

WINDOW_S = 10.0
CALM_S = 5.0
TARGET = 0.99
FLAP_S = 60.0
SETTLED_AFTER_S = 30.0
"""So long after the recovery from a step nothing is left of the backlog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What came of one jump of the load.

    A second is calm when the ``CALM_S`` that begin with it attain the target.

    Attributes:
        step_s: when the load jumped.
        back_s: until the first of ``CALM_S`` calm seconds in a row after the first that was not;
            0 when all were.
        seconds: until the second from which on every later one of this level is calm: a later
            mistake counts, too. Both are inf when there is none.
        attainment_outside: share of this level's requests within the SLO, without those that came
            in the ``allowed_s`` after the step.
        instances: mean of what was paid for once it had settled; nan when it never did.
    """

    step_s: float
    back_s: float
    seconds: float
    attainment_outside: float
    instances: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The figures of one run.

    Attributes:
        attainment: share of all requests within the SLO.
        good_windows: share of the windows of 10 s that attained 99 %.
        window_attainment: float64 [windows], of each; nan where nothing arrived.
        p50_s, p95_s, p99_s, p999_s: latency.
        cost_instance_s: integral of what was paid for.
        mean_instances, peak_instances: of what was paid for.
        actions, reloads, rolled_back: changes that began within what is measured.
        flaps: instances that were given up and had again within ``FLAP_S``.
        failed: requests that ended with an error.
        prediction_error: median of |expected - measured p99 of the next 10 s| / measured, over the
            rule's expectations while no change was in flight; nan where it says nothing.
        controller_cpu_fraction: of one core, over the simulated or real time.
        recoveries: one for each step.
    """

    attainment: float
    good_windows: float
    window_attainment: NDArray[np.float64] = field(repr=False)
    p50_s: float
    p95_s: float
    p99_s: float
    p999_s: float
    cost_instance_s: float
    mean_instances: float
    peak_instances: int
    actions: int
    flaps: int
    reloads: int
    rolled_back: int
    failed: int
    prediction_error: float
    controller_cpu_fraction: float
    recoveries: tuple[Recovery, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over several runs: median and range."""

    median: float
    low: float
    high: float


def score(run: ControlRun, *, steps_s: Sequence[float] = (), allowed_s: float = 8.0) -> Score:
    """The figures of a run.

    Args:
        run: what happened.
        steps_s: when the load jumps; each gets a ``Recovery``.
        allowed_s: what a recovery may take, for ``attainment_outside``.
    """
    ten = slo.windows(
        run.intended_s, run.latency_s, slo_s=run.slo_s, until_s=run.duration_s, window_s=WINDOW_S
    )
    cost = slo.instance_seconds(run.paid, run.duration_s)
    measured = [change for change in run.changes if 0 <= change.begun_s < run.duration_s]
    ends = (*steps_s[1:], run.duration_s)
    return Score(
        attainment=slo.slo_attainment(run.latency_s, run.slo_s),
        good_windows=slo.good_windows_fraction(ten, TARGET),
        window_attainment=ten.attainment_fraction,
        p50_s=slo.percentile_s(run.latency_s, 50),
        p95_s=slo.percentile_s(run.latency_s, 95),
        p99_s=slo.percentile_s(run.latency_s, 99),
        p999_s=slo.percentile_s(run.latency_s, 99.9),
        cost_instance_s=cost,
        mean_instances=cost / run.duration_s,
        peak_instances=peak_instances(run),
        actions=len(measured),
        flaps=flaps(measured),
        reloads=sum(change.reload for change in measured),
        rolled_back=sum(not change.ok for change in measured),
        failed=run.failed,
        prediction_error=prediction_error(run),
        controller_cpu_fraction=run.controller_cpu_s / run.duration_s,
        recoveries=tuple(
            recovery(run, step_s=step_s, until_s=until_s, allowed_s=allowed_s)
            for step_s, until_s in zip(steps_s, ends, strict=bool(steps_s))
        ),
    )


def flaps(changes: Sequence[ChangeMade]) -> int:
    """How often the count went down and up again within ``FLAP_S``; of changes in their order."""
    count, down_s = 0, -math.inf
    for change in changes:
        if change.after.instances < change.before.instances:
            down_s = change.begun_s
        elif change.after.instances > change.before.instances:
            count += change.begun_s - down_s <= FLAP_S
            down_s = -math.inf
    return count


def peak_instances(run: ControlRun) -> int:
    """The most that were paid for at a time within what is measured."""
    before = [count for at_s, count in run.paid if at_s <= 0]
    within = [count for at_s, count in run.paid if 0 < at_s < run.duration_s]
    return max([*before[-1:], *within], default=0)


def paid_between(run: ControlRun, from_s: float, until_s: float) -> float:
    """Instance-seconds paid for between two times of what is measured."""
    return slo.instance_seconds(run.paid, until_s) - slo.instance_seconds(run.paid, from_s)


def prediction_error(run: ControlRun, *, ahead_s: float = 10.0) -> float:
    """Median relative error of the expected p99 against that of the requests of the next 10 s.

    Left out are looks during a change, a change within the 10 s, and less than 100 requests: what
    the rule expected of other settings, and a p99 that is a maximum, say nothing of the rule.
    """
    errors = []
    for at_s, expected_s in run.expected:
        until_s = at_s + ahead_s
        if at_s < 0 or until_s > run.duration_s:
            continue
        if any(change.begun_s < until_s and change.ended_s > at_s for change in run.changes):
            continue
        first, last = np.searchsorted(run.intended_s, [at_s, until_s])
        if last - first < 100:
            continue
        measured_s = slo.percentile_s(run.latency_s[first:last], 99)
        if math.isfinite(measured_s) and math.isfinite(expected_s):
            errors.append(abs(expected_s - measured_s) / measured_s)
    return float(np.median(errors)) if errors else float("nan")


def recovery(run: ControlRun, *, step_s: float, until_s: float, allowed_s: float) -> Recovery:
    """How long the level from ``step_s`` to ``until_s`` was outside the SLO.

    Judged by stretches of ``CALM_S``: one late request of the 60 in a second is no outage.
    """
    level = (run.intended_s >= step_s) & (run.intended_s < until_s)
    since_s, latency_s = run.intended_s[level] - step_s, run.latency_s[level]
    good = (latency_s <= run.slo_s).astype(np.float64)
    starts = np.arange(max(1, math.floor(until_s - step_s - CALM_S) + 1), dtype=np.float64)
    calm = np.ones(starts.size, dtype=np.bool_)
    for number, start_s in enumerate(starts):
        first, last = np.searchsorted(since_s, [start_s, start_s + CALM_S])
        calm[number] = last == first or good[first:last].mean() >= TARGET
    bad = np.flatnonzero(~calm)
    recovered_s = float(bad[-1] + 1) if bad.size else 0.0
    if bad.size and bad[-1] == calm.size - 1:
        recovered_s = math.inf
    outside = since_s >= allowed_s
    settled_s = step_s + recovered_s + SETTLED_AFTER_S
    return Recovery(
        step_s=step_s,
        back_s=_back_s(calm),
        seconds=recovered_s,
        attainment_outside=float(good[outside].mean()) if outside.any() else float("nan"),
        instances=(
            paid_between(run, settled_s, until_s) / (until_s - settled_s)
            if settled_s < until_s
            else float("nan")
        ),
    )


def _back_s(calm: NDArray[np.bool_]) -> float:
    """The first of ``CALM_S`` calm seconds in a row after the first that was not calm."""
    if calm.all():
        return 0.0
    row = 0
    for second in range(int(np.argmin(calm)), calm.size):
        row = row + 1 if calm[second] else 0
        if row == CALM_S:
            return second + 1.0 - CALM_S
    return math.inf


def over_provisioning(
    run: ControlRun,
    rate: RateFunction,
    needed: Callable[[float], int],
    *,
    steps_s: Sequence[float] = (),
    step_s: float = 1.0,
) -> float:
    """Instance-seconds paid for, as a multiple of what the true rate needed.

    Args:
        run: what happened.
        rate: the true rate, of seconds from the start of what is measured.
        needed: the fewest instances that carry a rate.
        steps_s: when the load jumps; what comes before a level has settled is left out.
        step_s: of the sum.
    """
    paid = wanted = 0.0
    for at_s in np.arange(0.0, run.duration_s, step_s):
        if any(start_s <= at_s < start_s + SETTLED_AFTER_S for start_s in steps_s):
            continue
        until_s = min(at_s + step_s, run.duration_s)
        paid += paid_between(run, at_s, until_s)
        wanted += needed(float(rate(np.array([at_s]))[0])) * (until_s - at_s)
    return paid / wanted if wanted else float("nan")


def spread(values: Sequence[float]) -> Spread:
    """Median and range; nan is left out, and all is nan when nothing is left.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0)
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(median=math.nan, low=math.nan, high=math.nan)
    return Spread(median=float(np.median(known)), low=min(known), high=max(known))
