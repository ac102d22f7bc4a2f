"""Outcomes of the constants of ``core/load``."""

from __future__ import annotations

from dataclasses import replace

from control.core.load.agreement import Agreement
from control.core.load.cache_use import CacheUse, Trials
from control.core.load.demand import Bound, bounds_of, dispersion
from control.core.load.pace import Pace
from control.core.load.windows import Interval
from control.core.need.cached import advise
from serving.statistics import ModelStatistics
from tests.unit.constants.case import first, outcome, steps
from tests.unit.intervals import counted, in_a_row


def _told(end_s: float, shown: float, true: float, *, span_s: float = 1.0) -> Interval:
    """The page shows so many answers, the statistics have the true ones."""
    told = ModelStatistics(success_count=round(true))
    return replace(counted(end_s, shown, span_s=span_s), statistics=told)


def _looks(count: int, shown: float, true: float, *, span_s: float = 1.0, broken: bool = False):
    """The agreement after so many looks, and at which of them it was broken."""
    agreement, seen = Agreement(broken=broken), []
    for n in range(count):
        agreement = agreement.absorb(_told((n + 1) * span_s, shown, true, span_s=span_s))
        seen.append(agreement.broken)
    return seen


@outcome("load.agreement.APART_S")
def _() -> object:
    """Least share of the true answers that a page may show and be believed for 4 s."""
    return first(steps(0.05, 1.0, 0.05), lambda s: not any(_looks(4, 100 * s, 100)))


@outcome("load.agreement.APART_BROKEN_S")
def _() -> object:
    """Looks of a minute at which a page is believed that shows 45 % of the answers, and 60 %."""
    pages = (_looks(60, shown, 100, broken=True) for shown in (45, 60))
    return tuple(seen.count(False) for seen in pages)


@outcome("load.agreement.SHARE")
def _() -> object:
    """Least share of the true answers that a page may show and be believed for 30 s."""
    return first(steps(0.05, 1.0, 0.05), lambda s: not any(_looks(30, 100 * s, 100)))


@outcome("load.agreement.LEAST_REQUESTS")
def _() -> object:
    """Least load, req/s, at which a page that stands still is noticed within 4 s."""
    return first(range(1, 50), lambda rps: any(_looks(4, 0.0, rps)))


@outcome("load.agreement.WINDOWS_S")
def _() -> object:
    """Seconds until a page that stands still after 30 good ones at 100 req/s is noticed."""
    agreement = Agreement()
    for n in range(30):
        agreement = agreement.absorb(_told(n + 1.0, 100.0, 100.0))
    for n in range(30, 60):
        agreement = agreement.absorb(_told(n + 1.0, 0.0, 100.0))
        if agreement.broken:
            return n - 29
    return None


@outcome("load.agreement.AGREED_S")
def _() -> object:
    """Looks of 0.5 s that agree, until they are believed again."""
    return _looks(20, 50, 50, span_s=0.5, broken=True).index(False) + 1


@outcome("load.agreement.AGREED_LOOKS")
def _() -> object:
    """Looks of 3 s that agree, until they are believed again."""
    return _looks(20, 300, 300, span_s=3.0, broken=True).index(False) + 1


@outcome("load.agreement.DRAINS_S")
def _() -> object:
    """Seconds after a reload at which twice the answers on the page are a contradiction."""
    agreement = Agreement().absorb(replace(counted(0.0, 100.0), statistics=None))
    for n in range(1, 200):
        agreement = agreement.absorb(_told(float(n), 600.0, 100.0))
        if agreement.broken:
            return n
    return None


@outcome("load.windows.OLD_COPY")
def _() -> object:
    """Least share of 1,000 items by others at which an older copy is seen at work."""

    def works(share: float) -> bool:
        own = ModelStatistics(inference_count=round(1000 * (1 - share)))
        return replace(counted(1.0, 1000), inferences=1000.0, statistics=own).old_copy_works

    return first(steps(0.01, 1.0, 0.01), works)


def _steps_at(span_s: float, *, before: int = 5) -> bool:
    """Whether a look of so long with the arrivals of 1 s is a step of the clock."""
    pace = Pace()
    for new in in_a_row([200.0] * before):
        pace, _ = pace.absorb(new)
    return pace.absorb(counted(before + span_s, 200.0, span_s=span_s))[1]


@outcome("load.pace.STEP")
def _() -> object:
    """Least length of a look with the arrivals of 1 s that is a step of the clock, s."""
    return first(steps(1.0, 9.0, 0.1), _steps_at)


@outcome("load.pace.LEAST")
def _() -> object:
    """Looks of 1 s before a step of 9 s is seen."""
    return first(range(20), lambda before: _steps_at(9.0, before=before))


def _odd_looks(*spans_s: float) -> int | None:
    """How many looks at this pace, round and round, until they are believed."""
    pace, end_s = Pace(), 10.0
    for new in in_a_row([200.0] * 10):
        pace, _ = pace.absorb(new)
    for n in range(30):
        span_s = spans_s[n % len(spans_s)]
        end_s += span_s
        pace, stepped = pace.absorb(counted(end_s, 200.0, span_s=span_s))
        if not stepped:
            return n + 1
    return None


@outcome("load.pace.KEPT")
def _() -> object:
    """Looks of 9 s with the arrivals of 1 s until that pace is believed."""
    return _odd_looks(9.0)


@outcome("load.pace.SIMILAR")
def _() -> object:
    """Looks at another pace until it is believed: of 9 and 11 s in turn, of 9 and 18 s."""
    return _odd_looks(9.0, 11.0), _odd_looks(9.0, 18.0)


def _bounds(before_rps: float, newest_rps: float, *, before: int = 16, span_s: float = 1.0):
    """What the windows say after ``before`` looks at one rate and one at another."""
    counts = [before_rps * span_s] * before + [newest_rps * span_s]
    return bounds_of(in_a_row(counts, span_s=span_s), spread=1.0)


def _low(bounds: tuple[Bound, ...]) -> float:
    """The load: what it is at least, req/s, in steps of 5."""
    return round(max(bound.low_rps for bound in bounds) / 5) * 5.0


@outcome("load.demand.WINDOWS")
def _() -> object:
    """What a steady load of 100 req/s is at least, and one that rose to 140 1 s ago, req/s."""
    return _low(_bounds(100, 100)), _low(_bounds(100, 140))


@outcome("load.demand.WHOLE", about=1.0)
def _() -> object:
    """What a load is at least that rose from 100 to 200 req/s a look ago, of 0.42 s or 0.46 s."""
    return _low(_bounds(100, 200, span_s=0.42)), _low(_bounds(100, 200, span_s=0.46))


def _least_jump(before_rps: float) -> float | None:
    return first(
        steps(1.0, 9.0, 0.1), lambda up: any(b.jumped for b in _bounds(before_rps, up * before_rps))
    )


@outcome("load.demand.JUMP")
def _() -> object:
    """Least rise of 1,000 req/s within 1 s that is a jump, times."""
    return _least_jump(1000)


@outcome("load.demand.JUMP_Z")
def _() -> object:
    """Least rise of 40 req/s within 1 s that is a jump, times."""
    return _least_jump(40)


@outcome("load.demand.JUMP_WITHIN_S")
def _() -> object:
    """Windows in which a rise from 100 to 400 req/s is a jump, of six."""
    return sum(bound.jumped for bound in _bounds(100, 400))


@outcome("load.demand.JUMP_BEFORE_S")
def _() -> object:
    """Seconds that must have been seen before a rise from 100 to 300 req/s is a jump."""
    return first(range(20), lambda n: any(b.jumped for b in _bounds(100, 300, before=n)))


@outcome("load.demand.JUMPED")
def _() -> object:
    """What a load is at least that rose from 100 to 300 req/s 1 s ago, req/s."""
    return _low(_bounds(100, 300))


def _surely(*counts: float) -> float:
    """What a load of these counts in turn is at least, req/s, for 20 s."""
    intervals = in_a_row(counts * (20 // len(counts)))
    return _low(bounds_of(intervals, spread=dispersion(intervals)))


@outcome("load.demand.DISPERSION")
def _() -> object:
    """What a load of 100 req/s is at least, and one of 0 and 400 req/s in turn, req/s."""
    return _surely(100.0), _surely(400.0, 0.0)


@outcome("load.demand.TRIMMED")
def _() -> object:
    """Least rise of 30 and 50 req/s in turn within 1 s that is a jump, times."""
    before = in_a_row([30.0, 50.0] * 8)
    spread = dispersion(before)

    def jumps(times: float) -> bool:
        newest = counted(before[-1].end_s + 1.0, 40.0 * times)
        return any(bound.jumped for bound in bounds_of([*before, newest], spread=spread))

    return first(steps(1.0, 9.0, 0.1), jumps)


@outcome("load.cache_use.BLOCK_REQUESTS")
def _() -> object:
    """Seconds at 100 req/s until the hits of a cache are known."""
    use = CacheUse().absorb(None, on=True, at_s=0.0, fill_s=0.0)
    for n in range(1, 60):
        new = replace(counted(float(n), 100.0), cache_hits=50.0, cache_misses=50.0)
        use = use.absorb(new, on=True, at_s=float(n), fill_s=0.0)
        if use.hit_fraction is not None:
            return n
    return None


def _lookup_s() -> float:
    """What a look-up is taken to cost where the server does not tell."""
    use = CacheUse(on=True, filling=False)
    new = replace(counted(1.0, 2000.0), cache_hits=100.0)
    return use.absorb(new, on=True, at_s=1.0, fill_s=0.0).lookup_s


@outcome("load.cache_use.LOOKUP_S")
def _() -> object:
    """Least share of hits, %, that keeps the cache of a model of 1 ms on; costs are not told."""

    def stays(percent: int) -> bool:
        use = CacheUse(on=True, hit_fraction=percent / 100, lookup_s=_lookup_s())
        more = {"service_s": 0.001, "rate_rps": 100.0, "reload_cost_s": 1.0}
        return advise(use, on=True, may_try=True, at_s=0.0, **more) is None

    return first(range(1, 100), stays)


def _half_hours(failed: int) -> int | None:
    trials = Trials(failed_count=failed, begun_s=0.0)
    return first(range(100), lambda n: trials.may_begin(1800.0 * n))


@outcome("load.cache_use.FIRST_WAIT_S")
def _() -> object:
    """Half hours until the next trial after one that did not pay."""
    return _half_hours(1)


@outcome("load.cache_use.MOST_WAIT_S")
def _() -> object:
    """Half hours until the next trial after ten that did not pay."""
    return _half_hours(10)
