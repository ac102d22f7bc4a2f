"""Outcomes of the constants of ``core/service``."""

from __future__ import annotations

from control.core.queue_model.knowledge import Knowledge
from control.core.service import curves
from control.core.service.curves import Point, ServiceTime, curve_through, fit
from control.core.service.evidence import Compared
from control.core.service.interference import Level, fitted, relative_time
from control.core.service.learnt import NO_LIMIT, Learnt
from control.core.service.slow_seconds import SlowSeconds
from control.core.service.versions import Versions, learnt_of
from tests.unit.constants.case import first, outcome, steps
from tests.unit.evidence import after, executed, seen_at
from tests.unit.story import TRUE, a_policy, settings


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _curve(**batches_ms: tuple[int, float]) -> ServiceTime:
    """``b4=(10, 8.0)``: ten batches of 4 of 8 ms each."""
    seen = {int(b[1:]): (n, n * ms / 1000) for b, (n, ms) in batches_ms.items()}
    found = fit(seen)
    assert found is not None
    return found


@outcome("service.curves.PRIOR_SIZES")
def _() -> object:
    """Time of a batch of 32, ms, after 20 of 1 of 5 ms and 20 of 2 of 5.5 ms."""
    return _ms(_curve(b1=(20, 5.0), b2=(20, 5.5)).of(32))


@outcome("service.curves.PRIOR_WEIGHT")
def _() -> object:
    """Time of a batch of 8, ms, after one of 1 of 5 ms and one of 2 of 5.2 ms."""
    return _ms(_curve(b1=(1, 5.0), b2=(1, 5.2)).of(8))


@outcome("service.curves.HALF_FIXED")
def _() -> object:
    """Time of a batch of 8, ms, after 20 of 1 of 5 ms."""
    found = curve_through([Point(1, 0.005, 20.0)], prior=curves.HALF_FIXED)
    assert found is not None
    return _ms(found.of(8))


@outcome("service.curves.THIN")
def _() -> object:
    """Time of a batch of 16, ms, after two of 1 of 5 ms and two of 2 of 5.1 ms."""
    return _ms(_curve(b1=(2, 5.0), b2=(2, 5.1)).of(16))


TILES = {1: 5.0, 2: 5.0, 4: 5.0, 5: 10.0, 8: 10.0, 9: 15.0, 16: 20.0}
"""ms: a kernel that works in tiles of 4."""


def _is_table(sizes: tuple[int, ...], batches: int, *, times: dict[int, float] = TILES) -> bool:
    points = [Point(b, times[b] / 1000, float(batches)) for b in sizes]
    found = curve_through(points)
    return found is not None and bool(found.table)


@outcome("service.curves.TABLE_SIZES")
def _() -> object:
    """Least number of sizes, of 300 batches each, for which steps of a kernel are a table."""
    sizes = (4, 5, 8, 9, 16, 1, 2)
    return first(range(1, 8), lambda n: _is_table(tuple(sorted(sizes[:n])), 300))


@outcome("service.curves.TABLE_BATCHES")
def _() -> object:
    """Least number of batches of each size for which steps of a kernel are a table."""
    return first(range(1, 100), lambda n: _is_table(tuple(TILES), n))


def _least_bend(batches: int) -> float | None:
    """The least share by which one size takes longer than the line, that makes a table, %."""
    line = {b: 1000 * TRUE.of(b) for b in (1, 2, 4, 8, 16)}
    return first(
        steps(0.5, 40.0, 0.5),
        lambda n: _is_table(tuple(line), batches, times={**line, 4: line[4] * (1 + n / 100)}),
    )


@outcome("service.curves.SATURATION")
def _() -> object:
    """Time of a batch of 8, ms, after 10,000 of 1 and 2 and 100 of 8: 5, 6 and 20 ms."""
    points = [Point(1, 0.005, 1e4), Point(2, 0.006, 1e4), Point(8, 0.02, 100.0)]
    found = curve_through(points, cv_fraction=0.5)
    assert found is not None
    return _ms(found.of(8))


@outcome("service.curves.TABLE_GAIN")
def _() -> object:
    """Least bend of a curve at one size, %, that makes a table, of 2,000 batches each."""
    return _least_bend(2000)


@outcome("service.curves.LEAST_NOISE")
def _() -> object:
    """Least bend of a curve at one size, %, that makes a table, of 50 batches each."""
    return _least_bend(50)


@outcome("service.evidence.HALF_LIFE_S")
def _() -> object:
    """Seconds until a model that became 1.2 times as slow is known to be 1.15 times as slow."""
    return _known_in(1.2, 1.15)


def _known_in(slower: float, known_as: float) -> int | None:
    """Seconds until a model that became slower is known to be so, or nearly."""
    learnt = after(120, lambda: executed(TRUE, 1.0, b4=40))
    for n in range(1, 600):
        learnt = after(1, lambda: executed(TRUE, slower, b4=40), learnt)
        known = learnt.at(1, threads=1, cores=1)
        if known is not None and known.of(4) > known_as * TRUE.of(4):
            return n
    return None


@outcome("service.slow_seconds.SHIFT", about=1.0)
def _() -> object:
    """Least slowdown, %, that is known within 5 s."""
    return first(range(105, 300, 5), lambda n: (_known_in(n / 100, 0.98 * n / 100) or 99) <= 5)


@outcome("service.slow_seconds.SHIFT_SECONDS")
def _() -> object:
    """Seconds until a model that became twice as slow is known to be 1.9 times as slow."""
    return _known_in(2.0, 1.9)


@outcome("service.evidence.KEPT_BATCHES")
def _() -> object:
    """Time of a batch of 8, ms, of 12 ms by day, after an hour of single ones of 8 ms."""
    learnt = after(60, lambda: executed(b8=10))
    learnt = learnt.absorb(executed(TRUE, 1.6, b1=100), instances=1, threads=1, span_s=3600.0)
    known = learnt.at(1, threads=1, cores=1)
    assert known is not None
    return _ms(known.of(8))


def _apart(percent: int) -> Learnt:
    return seen_at(1.0, 1.0 + percent / 100)


@outcome("service.learnt.FLAT_PER_INSTANCE")
def _() -> object:
    """Least slowdown by a second instance, %, at which a third is a probe."""
    return first(
        range(60),
        lambda percent: _apart(percent).trusted_up_to(threads=1, cores=None) < NO_LIMIT,
    )


@outcome("service.learnt.TELLING_DIFFERENCE")
def _() -> object:
    """Least use of 2 instances, %, at which they prove that any count may be had."""

    def proves(percent: int) -> bool:
        learnt = after(20, lambda: executed(b8=40))
        second = after(20, lambda: executed(b8=1), learnt, instances=2)
        busy_s = 100 * TRUE.of(8)
        for _ in range(10):
            second = second.absorb(
                executed(b8=100), instances=2, threads=1, span_s=busy_s / 2 / (percent / 100)
            )
        return second.trusted_up_to(threads=1, cores=None) == NO_LIMIT

    return first(range(5, 101, 5), proves)


def _slower_by(minutes: int) -> float:
    """By how much one instance is known to be slower, %, after so long at two, mostly idle.

    Since they came, all batches take twice as long.
    """
    learnt = after(60, lambda: executed(b4=10))
    slow = executed(TRUE, 2.0, b4=1000)
    learnt = learnt.absorb(slow, instances=2, threads=1, span_s=60.0 * minutes)
    known = learnt.at(1, threads=1, cores=4)
    assert known is not None
    return 100 * (known.of(4) / TRUE.of(4) - 1)


@outcome("service.learnt.OTHERS_HALF_LIFE_S")
def _() -> object:
    """Minutes of batches twice as slow at 2 instances, until one is known to be 20 % slower."""
    return first(range(10, 600, 10), lambda minutes: _slower_by(minutes) > 20)


@outcome("service.learnt.LEAST_FRESH")
def _() -> object:
    """By how much one instance is known to be slower after two days of that, %."""
    return round(_slower_by(2 * 24 * 60))


@outcome("service.learnt.LEAST_PAIRS")
def _() -> object:
    """Seconds until the scatter of batches is known."""
    learnt = Learnt()
    for n in range(1, 60):
        learnt = after(1, lambda n=n: executed(TRUE, 1.0 + 0.1 * (n % 2), b4=10), learnt)
        known = learnt.at(1, threads=1, cores=1)
        if known is not None and known.cv_fraction > 0:
            return n
    return None


@outcome("service.learnt.DOUBT_BATCHES")
def _() -> object:
    """Batches at 2 instances, twice as slow, until 2 are known to be 50 % slower."""

    def slower(batches: int) -> bool:
        learnt = after(20, lambda: executed(b4=100))
        learnt = after(1, lambda: executed(TRUE, 2.0, b4=batches), learnt, instances=2)
        one, two = (learnt.at(n, threads=1, cores=4) for n in (1, 2))
        assert one is not None
        assert two is not None
        return two.of(4) > 1.5 * one.of(4)

    return first(range(1, 200), slower)


@outcome("service.learnt.LARGEST_CV")
def _() -> object:
    """Capacity of one, req/s, whose batches take 4 and 100 ms in turn, with an SLO of 1 s."""
    learnt = Learnt()
    for n in range(30):
        learnt = after(1, lambda n=n: executed(TRUE, 0.5 + 12.0 * (n % 2), b4=10), learnt)
    known = Knowledge(learnt=learnt, policy=a_policy(slo_s=1.0), threads=1, threads_ours=False)
    return round(known.capacity_rps(settings(), 1))


@outcome("service.learnt.MEASURED")
def _() -> object:
    """Batches of a size until a plan may have it, and at 2 instances until a third may be had."""

    def measured(batches: int) -> bool:
        return after(1, lambda: executed(b16=batches)).largest_measured == 16

    def trusted(batches: int) -> bool:
        return after(1, lambda: executed(b4=batches), instances=2).trusted_up_to(1, None) == 3

    return first(range(1, 20), measured), first(range(1, 20), trusted)


@outcome("service.interference.PARALLEL")
def _() -> object:
    """Time of a batch with 4 threads as a share of that with one, until it is measured."""
    return relative_time(1, threads=4, cores=4)


@outcome("service.interference.RIDGE")
def _() -> object:
    """How much slower a second instance is, %, by a count at 0.1 more busy that is 5 % slower."""
    law = fitted([Level(1.0, 1.0, 1.0, 1.0), Level(1.1, 1.0, 1.05, 1.0)])
    return round(100 * law.phi)


@outcome("service.versions.GUESS")
def _() -> object:
    """Time of a batch of 8 of a cheaper version that was never seen, ms; now 12 ms."""
    policy = a_policy(versions=(1, 2))
    learnt = after(20, lambda: executed(b1=10, b8=10))
    found = learnt_of(Versions(), learnt, 1, 2, policy, threads=1).at(1, threads=1, cores=1)
    assert found is not None
    return _ms(found.of(8))


def _seconds(*ratios: float, batches: float = 100.0, span_s: float = 1.0) -> SlowSeconds:
    """What is known after seconds of that much more work than usual."""
    slow = SlowSeconds()
    for ratio in ratios:
        seen = Compared(ratio * span_s, span_s, batches * span_s)
        slow = slow.absorb(seen, span_s=span_s, setting=(1, 1))
    return slow


def _slower(slow: SlowSeconds) -> float:
    """By how much a slow second is slower, whole %."""
    return round(100 * (slow.slower - 1.0))


ODD = (0.9, 1.1)


@outcome("service.slow_seconds.SECOND_S")
def _() -> object:
    """Looks of 0.5 s that make up a second."""
    return first(range(1, 20), lambda n: _seconds(*[1.0] * n, span_s=0.5).level is not None)


@outcome("service.slow_seconds.LEAST_BATCHES")
def _() -> object:
    """Looks of 1 s of 5 batches each that make up a second."""
    return first(range(1, 20), lambda n: _seconds(*[1.0] * n, batches=5.0).level is not None)


@outcome("service.slow_seconds.LEVEL_S")
def _() -> object:
    """How much slower a slow second is, %, 20 s after all batches became 30 % slower."""
    return _slower(_seconds(*[1.0] * 60, *[1.3] * 20))


@outcome("service.slow_seconds.KEPT_S")
def _() -> object:
    """Quiet seconds until a slow second is 10 % slower at most, where they differed by 10 %."""
    return first(range(0, 900, 10), lambda n: _slower(_seconds(*ODD * 100, *[1.0] * n)) <= 10)


@outcome("service.slow_seconds.DOUBT_S")
def _() -> object:
    """How much slower a slow second is, %, after 10 seconds that differ by 10 %."""
    return _slower(_seconds(*ODD * 5))


@outcome("service.slow_seconds.Z")
def _() -> object:
    """How much slower a slow second is, %, where seconds differ by 10 % for good."""
    return _slower(_seconds(*ODD * 300))


@outcome("service.slow_seconds.NORMAL")
def _() -> object:
    """How much slower a slow second is, %, where seconds differ by 5 % for good."""
    return _slower(_seconds(*(0.95, 1.05) * 300))


@outcome("service.slow_seconds.WITHIN_MARGINS")
def _() -> object:
    """Least difference of seconds, half %, at which some are slow."""
    return first(
        range(1, 40),
        lambda n: _seconds(*(1.0 - n / 200, 1.0 + n / 200) * 200).slower > 1.0,
    )


@outcome("service.slow_seconds.LEAST")
def _() -> object:
    """How much slower a slow second is, %, where every other second takes a tenth of the work."""
    return _slower(_seconds(*(1.0, 0.1) * 200))


@outcome("service.slow_seconds.MOST")
def _() -> object:
    """How much slower a slow second is, %, where every other second takes ten times the work."""
    return _slower(_seconds(*(1.0, 10.0) * 200))
