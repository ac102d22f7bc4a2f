"""Outcomes of the constants of ``core/need``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from control.core.load.cache_use import CacheUse
from control.core.need.base import BasePlan, base_plan, refuse_after_s
from control.core.need.cached import Reload, advise
from control.core.need.hold import held_for_s
from control.core.queue_model.knowledge import Knowledge
from control.core.reasons import Reason
from control.core.service.learnt import Learnt, ServiceTime
from control.core.service.versions import Versions
from control.core.types import Decision, Settings
from tests.unit.constants.case import first, outcome, steps
from tests.unit.evidence import after, executed
from tests.unit.story import TRUE, Story, a_policy, settings

HALF = TRUE.scaled(0.5)


def _again(story: Story) -> Story:
    """The same story, to go on with."""
    return replace(story, decisions=list(story.decisions))


def _until(story: Story, reason: Reason, *, load_rps: float, most: int = 100) -> int | None:
    """Seconds under this load until something changes for this reason."""
    for second in range(1, most + 1):
        decision = story.tick(load_rps)
        if decision.changes and decision.reason is reason:
            return second
    return None


@cache
def _quiet(slo_s: float = 0.05) -> Story:
    """Versions 1 and 2, the second twice as fast, one instance, after 20 quiet seconds."""
    return Story(
        policy=a_policy(max_instances=1, versions=(1, 2), slo_s=slo_s),
        curves={1: TRUE, 2: HALF},
        applied=replace(settings(), version=1),
    ).passes(20, load_rps=200)


@outcome("need.better_version.SHORT_FOR_S")
def _() -> object:
    """Seconds of a small overload until the cheaper version serves."""
    return _until(_again(_quiet(2.0)), Reason.QUALITY_DOWN, load_rps=700)


@outcome("need.better_version.GREAT", about=1.0)
def _() -> object:
    """Least load, req/s, that a cheaper version answers at the first look; 633 are carried."""

    def at_once(rps: float) -> bool:
        return _until(_again(_quiet(2.0)), Reason.QUALITY_DOWN, load_rps=rps, most=1) is not None

    return first(range(700, 1300, 20), at_once)


def _known(version: int, learnt: Learnt) -> Story:
    """After the quiet seconds, with another version that was seen before."""
    story = _again(_quiet())
    story.state = replace(story.state, versions=Versions(others={version: learnt}, of=1))
    return story


def _seen(share: float, batches: int = 100) -> Learnt:
    return after(1, lambda: executed(TRUE.scaled(share), b8=batches))


@outcome("need.better_version.CHEAPER", about=1.0)
def _() -> object:
    """Greatest share of the time, %, that a known version may take to answer an overload."""
    return first(
        range(100, 50, -5),
        lambda n: _until(
            _known(2, _seen(n / 100 - 0.001)), Reason.QUALITY_DOWN, load_rps=900, most=5
        ),
    )


@outcome("need.better_version.EVIDENT_BATCHES")
def _() -> object:
    """Batches of a version as slow as the one in force, until it is not tried in an overload."""
    return first(
        range(1, 50),
        lambda n: not _until(_known(2, _seen(1.0, n)), Reason.QUALITY_DOWN, load_rps=900, most=4),
    )


@outcome("need.better_version.AS_DEAR", about=1.0)
def _() -> object:
    """Least share of the time, %, at which a cheaper version goes amid an overload."""

    def goes(percent: int) -> bool:
        story = Story(
            policy=a_policy(max_instances=1, versions=(1, 2)),
            curves={1: TRUE, 2: TRUE.scaled(percent / 100)},
            applied=replace(settings(), version=2),
        )
        story.state = replace(story.state, versions=Versions(others={1: _seen(1.0)}, of=2))
        return _until(story, Reason.QUALITY_UP, load_rps=900, most=8) is not None

    return first(range(90, 105), goes)


@cache
def _rushed() -> Story:
    """After a rush that the cheaper version answers."""
    return _again(_quiet()).passes(12, load_rps=900)


@outcome("need.better_version.LOADS_KEPT")
def _() -> object:
    """Seconds of a small load until the better version is back; it loads for 2."""
    return _until(_again(_rushed()), Reason.QUALITY_UP, load_rps=300)


@outcome("need.better_version.ONSET_S")
def _() -> object:
    """Shortest stay, s, at the better version that a rush may end without a longer wait next."""

    def as_soon(stay_s: int) -> bool:
        story = _again(_rushed())
        _until(story, Reason.QUALITY_UP, load_rps=300)
        story.passes(stay_s, load_rps=300).passes(12, load_rps=900)
        return _until(story, Reason.QUALITY_UP, load_rps=300) == _until(
            _again(_rushed()), Reason.QUALITY_UP, load_rps=300
        )

    return first(range(10, 130, 5), as_soon)


@outcome("need.better_version.TO_SPARE", about=1.0)
def _() -> object:
    """Greatest load, req/s, at which the better version is back within 30 s."""
    return first(
        range(660, 460, -10),
        lambda rps: _until(_again(_rushed()), Reason.QUALITY_UP, load_rps=rps, most=30),
    )


@outcome("need.wanted.RESERVE")
def _() -> object:
    """Instances after a minute at 1,000 req/s where idle ones cost nothing, of 16."""
    policy = a_policy(idle_cost=0.0, max_instances=16, cores=16, unwritten=("max_instances",))
    return Story(policy=policy).passes(60, load_rps=1000).applied.instances


@outcome("need.hold.SEEN_AND_DRAINED_S")
def _() -> object:
    """Seconds that an instance is held which carries 1,200 req/s and loads for 2 s."""
    return round(held_for_s(a_policy(), 1200.0, load_s=2.0))


@outcome("need.hold.RECENT_S")
def _() -> object:
    """Seconds after a rush until no more is held before others, where idle ones cost nothing."""
    story = Story(policy=a_policy(idle_cost=0.0)).passes(200, load_rps=1500)

    def hold(decision: Decision) -> int:
        return decision.need.hold if decision.need else 0

    held = hold(story.last)
    return first(range(1, 100), lambda _: hold(story.tick(100.0)) < held)


@outcome("need.wanted.OUT_OF_REACH")
def _() -> object:
    """Instances after a minute at 2,000 req/s, with an SLO that no count keeps."""
    policy = a_policy(slo_s=0.004, max_instances=12, cores=12)
    story = Story(policy=policy).passes(20, load_rps=20).passes(40, load_rps=2000)
    return story.applied.instances


def _knows(slo_s: float, learnt: Learnt | None = None, *, slots: bool = False) -> Knowledge:
    """What is known of one instance whose batches were measured."""
    batches = dict.fromkeys(("b1", "b2", "b4", "b8", "b16", "b32"), 500)
    return Knowledge(
        learnt=learnt or after(1, lambda: executed(**batches)),
        policy=a_policy(slo_s=slo_s, max_instances=1, cores=1),
        threads=1,
        threads_ours=False,
        shares_slots=slots,
        refuses=not slots,
    )


def _plan(known: Knowledge) -> Settings:
    """The base configuration."""
    return base_plan(settings(1, batch=32), known, need_rps=100.0).settings


@outcome("need.base.LIKE")
def _() -> object:
    """Batch limit where 16 rows take 3.5 % longer a row than 8, and 32 rows 7.5 %."""
    rows = ((1, 0.0012), (2, 0.0022), (4, 0.0042), (8, 0.008), (16, 0.01656), (32, 0.0344))
    curve = ServiceTime(alpha_s=0.001, beta_s=0.0, table=rows)
    return _plan(_knows(0.4, Learnt(sibling=curve))).max_batch_size


@outcome("need.base.SURELY", about=1.0)
def _() -> object:
    """How many times as much a batch of 4 must seem to carry, %, to be taken before one of 32."""

    def small(percent: int) -> bool:
        rows = [(1, 0.01), (4, 0.01), *((size, size / 400 * percent / 100) for size in (8, 16, 32))]
        curve = ServiceTime(alpha_s=0.001, beta_s=0.0, table=tuple(rows))
        return _plan(_knows(2.0, Learnt(sibling=curve))).max_batch_size < 8

    return first(range(110, 250, 5), small)


@outcome("need.base.MEASURED_IN")
def _() -> object:
    """Seconds until a plan without an overload, where only batches of 1 and 32 were measured."""
    policy = a_policy(rebatch=True, max_instances=1)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured(1, 32)
    return _until(story, Reason.REBATCH, load_rps=50)


@outcome("need.base.LEAST_GAIN", about=1.0)
def _() -> object:
    """Least gain of capacity, %, that is worth a reload."""
    other = settings(1, batch=16)

    def pays(percent: int) -> bool:
        plan = BasePlan(settings=other, capacity_rps=100.0 + percent, applied_capacity_rps=100.0)
        return plan.pays(settings(1))

    return first(range(1, 99), pays)


@outcome("need.base.TRANSPORT_S")
def _() -> object:
    """How long a request may wait, ms, with an SLO of 200 ms and a batch of 36 ms."""
    limit_s = refuse_after_s(settings(1, batch=32), _knows(0.2))
    assert limit_s is not None
    return round(1000 * limit_s)


@outcome("need.base.LEAST_WAIT")
def _() -> object:
    """How long a request may wait, ms, with an SLO of 40 ms and a batch of 36 ms."""
    limit_s = refuse_after_s(settings(1, batch=32), _knows(0.04))
    assert limit_s is not None
    return round(1000 * limit_s)


@outcome("need.base.SHARED_DELAY")
def _() -> object:
    """How long requests wait for each other, ms, where models take turns; SLO of 200 ms."""
    return round(1000 * _plan(_knows(0.2, slots=True)).max_queue_delay_s)


@outcome("need.base.FIRST_PLAN_S")
def _() -> object:
    """Seconds of an overload from the start until another batching is set."""
    policy = a_policy(rebatch=True, max_instances=1, stable_window_s=20.0)
    story = Story(policy=policy, applied=settings(1, batch=32, dynamic=False)).measured()
    return _until(story, Reason.REBATCH, load_rps=500)


def _pays_from(reload_cost_s: float = 7.0, *, judged_ago_s: float | None = None) -> float | None:
    """Least load, req/s, of 5 ms each at which a trial of the cache begins."""
    use = CacheUse()
    if judged_ago_s is not None:
        use = CacheUse(hit_fraction=0.0, judged_s=0.0)
    at_s = judged_ago_s or 0.0
    more = {"on": False, "service_s": 0.005, "may_try": True, "at_s": at_s}
    return first(
        steps(0.1, 9.0, 0.1),
        lambda rps: advise(use, rate_rps=rps, reload_cost_s=reload_cost_s, **more),
    )


@outcome("need.cached.HOUR_S")
def _() -> object:
    """Half hours until a cache that paid nothing is tried again; least load for that, req/s."""
    return first(range(1, 9), lambda n: _pays_from(judged_ago_s=1800.0 * n)), _pays_from()


@outcome("need.cached.TRIAL_RELOADS")
def _() -> object:
    """Least load, req/s, of 5 ms each at which a trial of the cache begins."""
    return _pays_from()


@outcome("need.cached.ENDANGERED_FRACTION")
def _() -> object:
    """Instance-seconds of a reload of 2 s at 100 req/s of 5 ms each."""
    reload = Reload(seconds=2.0, instances=1, rate_rps=100.0, service_s=0.005)
    return round(reload.cost_s(a_policy()), 1)
