"""The quality knob: down in an overload, back afterwards, and never to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.decision import rebatch, version
from control.core.decision.decide import PROPOSERS
from control.core.judgement.judge import Verdict, Watch, judge
from control.core.judgement.period import Period
from control.core.memory.changes import Applied
from control.core.need.better_version import LOADS_KEPT, SHORT_FOR_S
from control.core.reasons import Clamp, Reason
from control.core.service.learnt import ServiceTime
from control.journal import checkpoint
from tests.unit.story import TRUE, Story, a_policy, settings

HALF = TRUE.scaled(0.5)
BATCHING = settings(batch=8)


def a_story(
    *curves: ServiceTime, served_at_first: int | None = 1, instances: int = 1, **policy: object
) -> Story:
    """A story of versions 1, 2, ... (best first) with these service times; one instance at most."""
    numbers = range(1, len(curves) + 1)
    bounds = {"max_instances": 1, "versions": tuple(numbers)}
    return Story(
        policy=a_policy(**{**bounds, **policy}),
        curves=dict(zip(numbers, curves, strict=True)),
        applied=replace(settings(instances), version=served_at_first),
    )


def steps(story: Story, begin: int = 0) -> list[tuple[Reason, int | None]]:
    """The changes of the version from that decision on: why, and to which."""
    return [
        (d.reason, d.desired.version)
        for d in story.decisions[begin:]
        if d.changes and d.applied and d.desired and d.desired.version != d.applied.version
    ]


def test_an_overload_is_met_by_a_cheaper_version_until_it_is_over() -> None:
    """Version 1 carries 580/s, version 2 1270/s: 900/s is version 2's, 300/s is version 1's."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200)
    assert steps(story) == []
    story.passes(4, load_rps=900)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]
    story.passes(60, load_rps=900)
    assert story.pending < 30
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]
    fell_at_s = story.at_s
    story.passes(120, load_rps=300)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2), (Reason.QUALITY_UP, 1)]
    back_at_s = next(d.at_s for d in story.decisions if d.reason is Reason.QUALITY_UP)
    assert back_at_s - fell_at_s >= LOADS_KEPT * story.policy.load_s
    assert {d.desired.instances for d in story.decisions if d.desired} == {1}


def test_a_small_overload_must_last() -> None:
    """Without a panic it is answered once it has lasted: 690/s are 4 % too much."""
    story = a_story(TRUE, HALF, slo_s=0.5).passes(20, load_rps=560)
    begin = len(story.decisions)
    story.passes(40, load_rps=690)
    short = [d for d in story.decisions[begin:] if d.reason is Reason.AT_LIMIT]
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]
    down = next(d for d in story.decisions if d.reason is Reason.QUALITY_DOWN)
    assert short
    assert short[0].at_s <= down.at_s - SHORT_FOR_S


def test_instances_come_first() -> None:
    """A load that more instances carry never costs quality; one that all of them do not does: then
    the version and the count change together."""
    story = a_story(TRUE, HALF, max_instances=3, cooldown_s=60.0, reloads_per_hour=0)
    story.passes(20, load_rps=200)
    story.passes(40, load_rps=900)
    assert steps(story) == []
    assert story.applied.instances == 2
    story.passes(15, load_rps=2600)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]
    last = story.changes[-1]
    assert last.reason is Reason.QUALITY_DOWN
    assert last.applied is not None
    assert last.applied.instances == 2
    assert story.applied.instances == 3


def test_a_share_of_the_budget_is_a_limit_like_any_other() -> None:
    """Where others hold the instances that the policy would allow, the version gives way."""
    story = a_story(TRUE, HALF, max_instances=4)
    story.cap = 1
    story.passes(20, load_rps=200).passes(10, load_rps=900)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]
    assert story.applied.instances == 1


@pytest.mark.parametrize("load_rps", [690, 1000])
def test_no_flapping_between_the_two_capacities(load_rps: int) -> None:
    """Too much for the one, little for the other: down once, and there it stays."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200).passes(300, load_rps=load_rps)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2)]


@pytest.mark.parametrize("load_rps", [550, 640])
def test_few_changes_near_the_better_capacity(load_rps: int) -> None:
    """After a burst, at a load near the limit of version 1: back once at most, and it stays."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200).passes(20, load_rps=900)
    begin = len(story.decisions)
    story.passes(600, load_rps=load_rps)
    assert len(steps(story, begin)) <= 1


def test_step_by_step_through_three_versions() -> None:
    """Down one at a time, each seen at work before the next, and back the same way."""
    story = a_story(TRUE, HALF, TRUE.scaled(0.2)).passes(20, load_rps=200)
    story.passes(30, load_rps=2400)
    down = [(Reason.QUALITY_DOWN, 2), (Reason.QUALITY_DOWN, 3)]
    assert steps(story) == down
    first, second = (d.at_s for d in story.decisions if d.reason is Reason.QUALITY_DOWN)
    assert second - first > story.policy.settle_s
    story.passes(200, load_rps=300)
    assert steps(story) == [*down, (Reason.QUALITY_UP, 2), (Reason.QUALITY_UP, 1)]


def test_a_version_that_is_not_cheaper_goes_and_is_not_tried_again() -> None:
    """The probe takes as long as the better version: back at once, and not tried again later."""
    story = a_story(TRUE, TRUE.scaled(1.02), changes_per_hour=10_000).passes(20, load_rps=200)
    story.passes(60, load_rps=900)
    assert steps(story) == [(Reason.QUALITY_DOWN, 2), (Reason.QUALITY_UP, 1)]
    for _ in range(4):
        story.passes(200, load_rps=300).passes(30, load_rps=900)
    assert len(steps(story)) == 2


def test_one_that_is_not_cheaper_is_passed_over() -> None:
    """Version 2 takes as long as version 1, version 3 half: the second overload goes straight."""
    story = a_story(TRUE, TRUE.scaled(1.02), HALF).passes(20, load_rps=200)
    story.passes(60, load_rps=900)
    assert steps(story)[:3] == [
        (Reason.QUALITY_DOWN, 2),
        (Reason.QUALITY_UP, 1),
        (Reason.QUALITY_DOWN, 3),
    ]
    story.passes(120, load_rps=300)
    assert steps(story)[3:] == [(Reason.QUALITY_UP, 1)]


def test_without_versions_or_with_one_on_disk_nothing_changes() -> None:
    """The knob is off without the key, for a version that it does not name, and with one only."""
    for story in (
        a_story(TRUE, HALF, versions=()),
        a_story(TRUE, HALF, versions=(1,)),
        a_story(TRUE, HALF, versions=(1, 7)),
        a_story(TRUE, HALF, HALF, versions=(1, 2), served_at_first=3),
    ):
        story.passes(20, load_rps=200).passes(30, load_rps=3000)
        assert steps(story) == []
        assert story.last.reason is Reason.AT_LIMIT


def test_the_served_version_is_never_pinned_in_place() -> None:
    """Unpinned, the newest (2) serves, which is the cheaper one here: the first step goes to 1."""
    story = a_story(TRUE, HALF, served_at_first=None).passes(60, load_rps=100)
    assert steps(story) == [(Reason.QUALITY_UP, 1)]
    story = a_story(HALF, TRUE, versions=(2, 1), served_at_first=None).passes(60, load_rps=100)
    assert [d.desired.standby for d in story.changes if d.desired] == [(1,)]


def test_the_guard_has_the_last_word() -> None:
    """A version that does not fit into memory beside the present one is not loaded."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200)
    story.gauges = {"memory_free_bytes": 100, "memory_copy_bytes": 1000}
    story.passes(20, load_rps=900)
    assert steps(story) == []
    assert story.last.reason is Reason.AT_LIMIT


def test_the_way_back_waits_while_the_better_version_is_blocked() -> None:
    """One that failed to load is not tried again before its time; the instances go their way."""
    story = a_story(TRUE, HALF, max_instances=2, blocked_s=200.0).passes(20, load_rps=200)
    story.passes(60, load_rps=1700)
    assert (story.applied.version, story.applied.instances) == (2, 2)
    failed = Applied(
        at_s=story.at_s,
        settings=replace(story.applied, version=1),
        before=story.applied,
        reload=False,
        ok=False,
    )
    story.state = story.state.tried(failed)
    begin = len(story.decisions)
    story.passes(190, load_rps=1000)
    assert steps(story, begin) == []
    story.passes(20, load_rps=1000)
    assert steps(story, begin) == [(Reason.QUALITY_UP, 1)]


def test_a_low_capacity_that_is_only_predicted_costs_no_quality() -> None:
    """Nothing waits, but times of full batches were never seen and are expected to be too long."""
    story = a_story(TRUE, HALF, slo_s=0.5).passes(60, load_rps=560)
    assert any(d.reason is Reason.AT_LIMIT for d in story.decisions)
    assert steps(story) == []


def test_a_cheaper_version_that_carries_more_but_not_all_stays() -> None:
    """Twice what it carries: the budget burns, which is no reason to go back to less."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200).passes(10, load_rps=900)
    story.passes(100, load_rps=300)
    begin = len(story.decisions)
    story.passes(20, load_rps=900).passes(100, load_rps=2500)
    assert story.last.terms["budget_burns"] == 1
    assert steps(story, begin) == [(Reason.QUALITY_DOWN, 2)]


def test_a_cheaper_version_is_judged_like_added_instances() -> None:
    """By a full queue alone: 900/s came before it, as nobody waited; 600/s are answered now."""
    policy = a_policy(versions=(1, 2))
    one, two = replace(settings(), version=1), replace(settings(), version=2)
    after = Period(
        span_s=10.0,
        arrivals=9000.0,
        completed=6000.0,
        came=9000.0,
        missed=5000.0,
        queued_s=10.0,
        queued_completed=6000.0,
    )
    before = Period(span_s=10.0, arrivals=9000.0, completed=9000.0, missed=0.0)
    watch = Watch(since_s=0.0, settings=two, good=one, before=before, after=after)
    assert judge(watch, policy, at_s=60.0) is not Verdict.WORSE
    back = replace(watch, settings=one, good=two)
    assert judge(back, policy, at_s=60.0) is Verdict.WORSE
    assert judge(watch, replace(policy, versions=()), at_s=60.0) is Verdict.WORSE


def test_what_was_learnt_follows_the_version() -> None:
    """The service times of each version are its own, whatever the other's statistics say."""
    story = a_story(TRUE, HALF).passes(20, load_rps=200).passes(60, load_rps=900)
    batching = story.policy.cores
    cheap = story.state.learnt.at(1, threads=1, cores=batching)
    dear = story.state.versions.others[1].at(1, threads=1, cores=batching)
    assert cheap is not None
    assert dear is not None
    assert cheap.of(8) == pytest.approx(HALF.of(8), rel=0.02)
    assert dear.of(2) == pytest.approx(TRUE.of(2), rel=0.2)
    assert story.last.terms["version"] == 2
    assert story.last.terms["better_version_capacity_rps"] > 0
    story.passes(100, load_rps=300)
    back = story.state.learnt.at(1, threads=1, cores=batching)
    assert back is not None
    assert back.of(2) == pytest.approx(TRUE.of(2), rel=0.1)
    assert set(story.state.versions.others) == {2}
    assert checkpoint.unpack(checkpoint.pack(story.state)) == story.state


def a_descending_story(**policy: object) -> Story:
    """Best first is 2, 1: the cheaper one can stand by."""
    return Story(
        policy=a_policy(**{"max_instances": 1, "versions": (2, 1), **policy}),
        curves={1: HALF, 2: TRUE},
        applied=settings(1),
    )


def test_the_cheaper_version_stands_by_and_takes_over_by_a_drop() -> None:
    """It is loaded once it is quiet; the rush only drops the better one, and loads nothing."""
    story = a_descending_story().passes(20, load_rps=200)
    assert [d.reason for d in story.changes] == [Reason.QUALITY_STANDBY]
    assert (story.applied.version, story.applied.standby) == (2, (1,))
    story.passes(60, load_rps=900)
    down = story.changes[-1]
    assert down.reason is Reason.QUALITY_DOWN
    assert down.applied is not None
    assert down.desired is not None
    assert (down.desired.version, down.desired.standby) == (1, ())
    assert down.desired.loads_beside(down.applied) == 0
    story.passes(120, load_rps=200)
    assert (story.applied.version, story.applied.standby) == (2, (1,))
    assert len(story.changes) == 3


def test_a_drop_comes_before_another_batching_and_a_loading_after_it() -> None:
    """A reload in the rush would take the cores that the rush needs."""
    order = list(PROPOSERS)
    assert order.index(version.drop) < order.index(rebatch.propose)
    assert order.index(rebatch.propose) < order.index(version.propose)
    story = a_descending_story(cores=4).passes(20, load_rps=200)
    story.policy = replace(story.policy, rebatch=True, max_batch_size=32, max_instances=1)
    begin = len(story.decisions)
    story.passes(5, load_rps=1500)
    changes = [d.reason for d in story.decisions[begin:] if d.changes]
    assert changes[0] is Reason.QUALITY_DOWN


def test_no_memory_no_standby() -> None:
    """Another copy must fit; without it the cheaper version is loaded when it is needed."""
    story = a_descending_story()
    story.gauges = {"memory_free_bytes": 50, "memory_copy_bytes": 100}
    story.passes(20, load_rps=200)
    assert story.changes == []
    assert Clamp.MEMORY in story.last.clamps or story.last.reason is Reason.HOLD_STEADY
    story.gauges = {"memory_free_bytes": 500, "memory_copy_bytes": 100}
    story.passes(5, load_rps=200)
    assert [d.reason for d in story.changes] == [Reason.QUALITY_STANDBY]


def test_a_great_overload_is_answered_at_once_and_a_small_one_when_it_has_lasted() -> None:
    """1.2 times what the most instances carry, surely; 4 % too much first lasts."""
    great = a_descending_story().passes(20, load_rps=200)
    great.passes(3, load_rps=1000)
    assert great.changes[-1].reason is Reason.QUALITY_DOWN
    small = a_descending_story(slo_s=0.5).passes(20, load_rps=560)
    small.passes(3, load_rps=690)
    assert small.changes[-1].reason is Reason.QUALITY_STANDBY


def test_what_a_change_of_versions_loads() -> None:
    """Copies in memory beside those in force."""
    best = replace(settings(2), version=2)
    both = replace(best, standby=(1,))
    cheap = replace(settings(2), version=1)
    assert both.loads_beside(best) == 2
    assert cheap.loads_beside(both) == 0
    assert cheap.loads_beside(best) == 2
    assert replace(both, instances=3).loads_beside(both) == 2
    assert replace(both, max_batch_size=2).loads_beside(both) == 4


def test_a_rush_that_comes_again_and_again_is_not_answered_each_time() -> None:
    """20 s of rush, 20 s of calm: each way up in vain doubles the next wait, until none is left."""
    story = a_descending_story(load_s=1.0).passes(20, load_rps=200)
    ups = []
    for _ in range(8):
        story.passes(20, load_rps=900)
        begin = len(story.decisions)
        story.passes(20, load_rps=200)
        ups.append(sum(d.reason is Reason.QUALITY_UP for d in story.decisions[begin:] if d.changes))
    assert ups[0] == 1
    assert ups[-3:] == [0, 0, 0]
    begin = len(story.decisions)
    story.passes(120, load_rps=200)
    assert steps(story, begin)[-1] == (Reason.QUALITY_UP, 2)


def test_what_waits_after_the_way_back_is_no_new_rush() -> None:
    """The long windows still hold the rush, and the loading left a backlog."""
    story = a_descending_story(load_s=1.0).passes(20, load_rps=200).passes(20, load_rps=900)
    while story.applied.version != 2:
        story.passes(1, load_rps=200)
    begin = len(story.decisions)
    story.curves[2] = TRUE.scaled(50.0)  # the loading had the cores
    story.passes(1, load_rps=200)
    story.curves[2] = TRUE
    story.passes(2, load_rps=200)
    assert Reason.QUALITY_DOWN not in [d.reason for d in story.decisions[begin:]]
    story.passes(5, load_rps=900)
    assert story.last.applied is not None
    assert story.last.applied.version == 1


def test_a_standby_is_no_stay_that_a_rush_ended() -> None:
    """Loaded seconds before the first rush: the way back waits two loading times, not four."""
    early, late = (
        a_descending_story(load_s=2.0).passes(quiet_s, load_rps=200) for quiet_s in (20, 120)
    )
    waits = []
    for story in (early, late):
        story.passes(12, load_rps=900)
        begin = len(story.decisions)
        while story.applied.version != 2:
            story.passes(1, load_rps=200)
        waits.append(len(story.decisions) - begin)
    assert waits[0] == waits[1]
