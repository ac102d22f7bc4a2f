"""Outcomes of the constants of ``core/judgement``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control.core.judgement import judge as judging
from control.core.judgement.judge import Verdict, Watch
from control.core.judgement.period import Period
from control.core.load.windows import Interval
from control.core.types import Settings
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.constants.case import first, outcome
from tests.unit.intervals import timed
from tests.unit.story import a_policy, settings

POLICY = a_policy(slo_s=0.1)
ONE, TWO = settings(1), settings(2)
BIG = settings(1, batch=32)


def _look(
    end_s: float,
    batch_s: float,
    *,
    rate: float = 100.0,
    failed: float = 0.0,
    waiting: float = 0.0,
    late: bool = True,
    size: float = 8.0,
    cpu: float = 0.5,
    spread: int = 0,
) -> Interval:
    """1 s at this rate, in batches of 8 of so long each; ``waiting`` at both ends."""
    count = max(1, round(rate / size))
    new = timed(
        end_s,
        arrivals=rate + failed,
        completed=rate,
        failed=failed,
        pending=waiting,
        wait_s=0.2 if late else 0.0,
        compute_s=batch_s,
    )
    seen = ModelStatistics(batches={round(size): BatchStat(count=count, busy_s=count * batch_s)})
    return replace(new, statistics=seen, cpu_fraction=cpu)


def _period(batch_s: float = 0.02, *, seconds: int = 20, full: int = 0, **seen: Any) -> Period:
    """So many looks; in ``full`` of them the queue was full."""
    total = Period()
    for n in range(seconds):
        new = _look(n + 1.0, batch_s, **{"waiting": 50.0 if n < full else 0.0, **seen})
        total = total.plus(new, slo_s=POLICY.slo_s, full_round=8.0)
    return total


def _verdict(before: Period, after: Period, *, new: Settings = BIG, old: Settings = ONE) -> str:
    """Of a change that was watched for a minute."""
    watch = Watch(since_s=0.0, settings=new, good=old, before=before, after=after)
    found = judging.judge(watch, POLICY, at_s=60.0)
    return "open" if found is None else found.value


def _is_worse(before: Period, after: Period, **more: Any) -> bool:
    return _verdict(before, after, **more) == Verdict.WORSE.value


@outcome("judgement.period.LEAST_QUEUED_S")
def _() -> object:
    """Seconds of a full queue until what it is answered at is known."""
    return first(range(1, 60), lambda n: _period(seconds=n, full=n).queued_rps is not None)


@outcome("judgement.period.MOSTLY")
def _() -> object:
    """Least of 20 looks with a full queue at which the queue was full."""
    return first(range(1, 21), lambda n: _period(full=n).saturated)


@outcome("judgement.judge.SIMILAR")
def _() -> object:
    """Least rise of the host's use, points, beside which slower batches are nobody's fault."""
    before = _period(cpu=0.5)
    return first(
        range(1, 50), lambda n: not _is_worse(before, _period(0.04, cpu=0.5 + n / 100 + 1e-6))
    )


@outcome("judgement.judge.LESS", about=1.0)
def _() -> object:
    """Least slowdown of equal batches, %, that is taken back."""
    return first(range(1, 99), lambda n: _is_worse(_period(), _period(0.02 * (1 + n / 100))))


@outcome("judgement.judge.LEAST_REQUESTS")
def _() -> object:
    """Least requests in 20 s at which batches four times as slow are taken back."""

    def worse(count: int) -> bool:
        after = _period(0.08, rate=count / 20)
        sizes = _period(0.08).sizes  # batches enough were seen
        return _is_worse(_period(), replace(after, sizes=sizes))

    return first(range(1, 200), worse)


@outcome("judgement.judge.LEAST_FAILED")
def _() -> object:
    """Least failed requests of 100 at which a change is taken back."""
    before = _period(failed=0.0)
    return first(range(1, 50), lambda n: _is_worse(before, replace(_few(), failed=float(n))))


def _few() -> Period:
    """100 answered requests."""
    return replace(_period(seconds=5, late=False), ended=100.0)


@outcome("judgement.judge.MORE_FAILED")
def _() -> object:
    """Least failed requests of 10,000 at which a change is taken back."""
    before, after = _period(late=False), replace(_period(late=False), ended=10_000.0)
    return first(range(1, 999), lambda n: _is_worse(before, replace(after, failed=float(n))))


@outcome("judgement.judge.COLLAPSED")
def _() -> object:
    """Greatest share, %, of its time before at which a batch counts as no work at all."""
    before = _period(late=False)
    return first(
        range(99, 0, -1), lambda n: _is_worse(before, _period(0.02 * n / 100 - 1e-9, late=False))
    )


@outcome("judgement.judge.LEAST_BATCHES")
def _() -> object:
    """Least batches after a change at which ones twice as slow are taken back."""
    return first(
        range(2, 99),
        lambda n: _is_worse(_period(), _period(0.04, rate=8.0, seconds=n)),
    )


@outcome("judgement.judge.SIZE_KEPT", about=1.0)
def _() -> object:
    """Smallest mean batch, of 20 before, at which batches without work are a collapse."""
    before = _period(size=20.0, rate=400.0, late=False)
    return first(
        range(1, 30),
        lambda n: _is_worse(before, _period(0.001, size=float(n), rate=400.0, late=False)),
    )
