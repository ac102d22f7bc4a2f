"""A change that finds a queue, makes one, or is watched while one drains."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tests.unit.life
from control.core.judgement.judge import Verdict, Watch, judge
from control.core.judgement.period import Period
from control.core.load.windows import Interval
from control.core.memory.changes import Applied, InFlight
from control.core.reasons import Reason
from control.core.rules import rule_named
from control.core.step import Begun, Ended
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.intervals import timed
from tests.unit.life import Life
from tests.unit.story import TRUE, settings
from tests.unit.test_judge import BIG, GOOD, POLICY, T0, period, watch

LOOKS = 80


def full(answered_rps: float, pending: float, *, full_round: float = 16.0) -> Period:
    """Ten seconds of a queue that stays as long as it is; who comes waits for all of it."""
    seen = Period()
    for n in range(10):
        new = answered(T0 - 20.0 + n, answered_rps, pending=pending)
        seen = seen.plus(new, slo_s=POLICY.slo_s, full_round=full_round)
    return seen


def answered(
    end_s: float, rps: float, *, pending: float, arrivals: float | None = None
) -> Interval:
    """A second in which so many are answered, and so many wait at its end."""
    came = rps if arrivals is None else arrivals
    new = timed(end_s, arrivals=came, completed=rps, pending=pending)
    return replace(new, request_s=pending, queue_s=pending / 2, compute_s=pending / 2)


def judged(seen: Watch, looks: list[Interval]) -> Verdict | None:
    """The first verdict while these come, one a second."""
    for new in looks:
        seen = seen.with_interval(new, POLICY)
        verdict = judge(seen, POLICY, at_s=new.end_s)
        if verdict is not None:
            return verdict
    return None


def closed_loop(rps: float, clients: float) -> list[Interval]:
    """So many clients that each wait for their answer, from the first look after the change on."""
    return [answered(T0 + n, rps, pending=clients) for n in range(1, LOOKS)]


@pytest.mark.parametrize("clients", [30.0, 60.0, 63.0, 64.0, 70.0, 500.0])
def test_half_the_answers_to_as_many_clients_are_worse(clients: float) -> None:
    """Whether or not they fill the larger batches; 96/s before, in a queue that was full."""
    before = full(96.0, clients)
    assert before.queued_rps == pytest.approx(96.0)
    seen = watch(Period(), before=before)
    assert judged(seen, closed_loop(48.0, clients)) is Verdict.WORSE
    assert judged(seen, closed_loop(190.0, clients)) is Verdict.NEUTRAL


def test_half_the_answers_of_a_full_queue_are_worse_than_those_of_one_that_was_not() -> None:
    """14 clients are no full queue of two batches of 8; then the instances take twice as long."""
    before = full(96.0, 14.0)
    assert before.queued_rps is None
    seen = watch(Period(), before=before)
    assert judged(seen, closed_loop(48.0, 20.0)) is Verdict.WORSE


@pytest.mark.parametrize(
    ("full_before", "worse"), [(False, False), (True, True)], ids=["no queue before", "a queue"]
)
def test_a_busier_host_excuses_a_queue_that_was_not_there(full_before: bool, worse: bool) -> None:
    """Half of what came is answered now; of what a full queue was answered, it is the change."""
    before = replace(full(96.0, 30.0 if full_before else 14.0), cpu_s=4.0, cpu_span_s=10.0)
    busy = [replace(new, cpu_fraction=0.9) for new in closed_loop(48.0, 30.0)]
    seen = watch(Period(), before=before)
    assert (judged(seen, busy) is Verdict.WORSE) is worse


@pytest.mark.parametrize("clients", [30.0, 60.0, 70.0])
def test_smaller_batches_that_halve_the_answers_are_worse(clients: float) -> None:
    """32 before, 8 now: what was no full queue before is one."""
    before = full(100.0, clients, full_round=64.0)
    seen = watch(Period(), before=before, settings=GOOD, good=BIG)
    assert judged(seen, closed_loop(50.0, clients)) is Verdict.WORSE


def draining(rps: float, arrivals: float, *, takes_s: float = 0.02) -> list[Interval]:
    """A backlog of 3600 that sinks at each look, to its end; then an answer takes so long."""
    looks, pending = [], 3600.0
    for n in range(1, LOOKS):
        pending = max(0.0, pending - rps + arrivals)
        if pending > 0.0:
            looks.append(answered(T0 + n, rps, pending=pending, arrivals=arrivals))
        else:
            new = timed(T0 + n, arrivals=arrivals, completed=arrivals, compute_s=takes_s)
            looks.append(new)
    return looks


BEFORE = period(0.02, rate=1000.0)
"""1000/s in 20 ms each."""


def test_a_queue_that_drains_at_less_than_came_before_is_worse() -> None:
    """500/s now, of 480/s that come."""
    seen = watch(Period(), before=BEFORE)
    assert judged(seen, draining(500.0, 480.0)) is Verdict.WORSE
    assert judged(seen, draining(1200.0, 1000.0)) is Verdict.NEUTRAL


def test_a_steady_queue_of_few_is_judged_in_the_usual_time() -> None:
    """Three wait for a model without batches, one is answered a second: it does not drain."""
    one = settings(1, batch=1)
    slow = [answered(T0 + n, 1.0, pending=3.0) for n in range(1, LOOKS)]
    seen = watch(Period(), before=full(1.0, 3.0, full_round=1.0), settings=one, good=one)
    assert judged(seen, slow[: int(POLICY.settle_s + POLICY.watch_s)]) is Verdict.NEUTRAL


def test_a_higher_load_is_no_excuse_for_fewer_answers() -> None:
    """1500/s come after 1000/s."""

    def overload(answered_rps: float) -> list[Interval]:
        rise = 1500.0 - answered_rps
        return [
            answered(T0 + n, answered_rps, pending=1000.0 + rise * n, arrivals=1500.0)
            for n in range(1, LOOKS)
        ]

    seen = watch(Period(), before=BEFORE)
    assert judged(seen, overload(850.0)) is Verdict.WORSE
    assert judged(seen, overload(950.0)) is Verdict.NEUTRAL


def test_few_answers_of_a_full_queue_are_a_matter_of_chance() -> None:
    """Two seconds of a model that answers ten a second: 13 instead of 20."""
    before = period(0.5, rate=10.0)
    short = replace(period(0.5, rate=10.0), queued_s=2.0, queued_completed=13.0)
    long = replace(short, queued_s=20.0, queued_completed=130.0)
    few, many = (watch(after, before=before) for after in (short, long))
    assert judge(few, POLICY, at_s=T0 + 60.0) is Verdict.NEUTRAL
    small = replace(many, settings=settings(2, batch=4))
    assert judge(small, POLICY, at_s=T0 + 60.0) is Verdict.WORSE


def _serves(life: Life, rps: float, size: int, clients: float) -> Life:
    """A second in which as many clients are answered as come back, in batches of this size."""
    life.at_s += 1.0
    known = life.statistics.batches.get(size, BatchStat(count=0, busy_s=0.0))
    count = round(rps / size)
    batch_s = life.applied.instances * size / rps
    stat = BatchStat(count=known.count + count, busy_s=known.busy_s + count * batch_s)
    life.statistics = replace(life.statistics, batches={**life.statistics.batches, size: stat})
    old = life.counters
    life.counters = replace(
        old,
        success=old.success + rps,
        request_s=old.request_s + clients,
        queue_s=old.queue_s + clients - rps * batch_s,
        compute_infer_s=old.compute_infer_s + rps * batch_s,
        pending=clients,
    )
    return life


@pytest.mark.parametrize(
    ("instances", "load", "slower"), [(1, 350.0, 6.0), (2, 700.0, 4.0), (2, 1100.0, 2.5)]
)
def test_instances_that_are_added_to_a_model_that_became_slow_stay(
    instances: int, load: float, slower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour, or longer inputs: what was answered before it is no measure of them."""
    policy = replace(POLICY, max_instances=6)
    life = Life(rule=rule_named("conch"), policy=policy, applied=settings(instances))
    life.lasts([load] * 60)
    monkeypatch.setattr(tests.unit.life, "TRUE", TRUE.scaled(slower))
    life.lasts([load] * 90)
    reasons = [decision.reason for decision in life.changes]
    assert reasons
    assert Reason.ROLLBACK not in reasons


def test_answers_of_the_cache_are_not_what_instances_carried() -> None:
    """900 of 1000 were hits; 600/s are computed now that all miss."""
    hits = [
        replace(timed(T0 - 20.0 + n, arrivals=1000.0, completed=1000.0), cache_hits=900.0)
        for n in range(10)
    ]
    before = Period()
    for new in hits:
        before = before.plus(new, slo_s=POLICY.slo_s, full_round=16.0)
    assert before.answered_rps == pytest.approx(100.0)
    misses = [answered(T0 + n, 600.0, pending=400.0 * n, arrivals=1000.0) for n in range(1, LOOKS)]
    assert judged(watch(Period(), before=before), misses) is not Verdict.WORSE


@pytest.mark.parametrize("answered_rps", [112.0, 120.0])
@pytest.mark.parametrize("rose_s", [6.0, 10.0, 14.0])
def test_a_better_batching_amid_an_overload_is_not_worse(
    answered_rps: float, rose_s: float
) -> None:
    """100/s, then 120/s of which 110/s are answered; then more, in batches eight times as large."""
    before, pending = Period(), 0.0
    for n in range(20):
        load = 120.0 if n >= 20.0 - rose_s else 100.0
        done = min(load + pending, 110.0)
        pending += load - done
        new = timed(T0 - 20.0 + n, arrivals=load, completed=done, pending=pending)
        if pending:
            new = answered(T0 - 20.0 + n, done, pending=max(pending, 1.0), arrivals=load)
        before = before.faded(0.9).plus(new, slo_s=POLICY.slo_s, full_round=32.0)
    after = []
    for n in range(1, LOOKS):
        pending += 120.0 - answered_rps
        after.append(answered(T0 + n, answered_rps, pending=pending, arrivals=120.0))
    seen = watch(
        Period(),
        before=before,
        settings=settings(4, batch=64),
        good=settings(4, batch=8),
    )
    if before.saturated:
        assert judged(seen, after) is not Verdict.WORSE


def test_fewer_answers_within_the_slo_are_a_load_that_fell() -> None:
    """The queue delay keeps twenty waiting, at 400/s after 500/s."""
    looks = [
        replace(answered(T0 + n, 400.0, pending=20.0), compute_s=8.0, queue_s=4.0)
        for n in range(1, LOOKS)
    ]
    seen = watch(Period(), before=full(500.0, 40.0))
    assert judged(seen, looks) is not Verdict.WORSE
    late = [replace(new, compute_s=40.0) for new in looks]
    assert judged(seen, late) is Verdict.WORSE


@pytest.mark.parametrize("clients", [30.0, 70.0])
def test_a_batching_that_halves_the_answers_is_rolled_back(clients: float) -> None:
    """The whole way: 96/s in batches of 8, then 48/s in batches of up to 32."""
    policy = replace(POLICY, max_instances=2)
    life = Life(rule=rule_named("conch"), policy=policy, applied=GOOD)
    for _ in range(60):
        _serves(life, 96.0, 8, clients).looks()
    life._feed(Begun(change=InFlight(since_s=life.at_s, settings=BIG, before=GOOD)))
    done = Applied(
        at_s=life.at_s + 1.0, settings=BIG, before=GOOD, reload=True, ok=True, seconds=1.0
    )
    life._feed(Ended(change=done))
    life.applied, life.statistics = BIG, ModelStatistics()
    size = int(min(32.0, clients / 2))
    decided = [_serves(life, 48.0, size, clients).looks() for _ in range(60)]
    undone = [d for d in decided if d.reason is Reason.ROLLBACK]
    assert undone
    assert undone[0].desired == GOOD


def test_a_queue_that_is_full_at_some_looks_by_chance_tells_nothing() -> None:
    """Two instances without batches, two thirds busy: two wait at one look in three."""
    one = settings(2, batch=1)
    looks = [
        answered(T0 + n, 50.0, pending=2.0 if n % 6 < 2 else 0.0, arrivals=50.0)
        for n in range(1, LOOKS)
    ]
    seen = watch(Period(), settings=one, good=replace(one, instances=3))
    assert judged(seen, looks) is not Verdict.WORSE
