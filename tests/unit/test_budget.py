"""The budget is never passed, nobody starves, and weight never hurts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conch.errors import ConfigError
from control.core.budget.share import cap, share
from control.core.budget.shares import Shares
from control.core.budget.want import Limit, Want, want_of
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation
from control.policy_file import Budget, PolicyFile
from control.session import shares_of
from perf.bench.control import many
from tests.unit.story import Story, a_policy
from tests.unit.story import settings as applied_settings


def _want(model: str, needed: int, *, held: int = 1, weight: float = 1.0, **more: object) -> Want:
    """A want with 100 requests a second of capacity an instance."""
    base = Want(
        model=model,
        weight=weight,
        held=held,
        needed=needed,
        hold=needed,
        max_instances=12,
        rate_rps=100.0 * needed,
        capacities={count: 100.0 * count for count in range(1, 13)},
    )
    return replace(base, **more)


wants = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.integers(1, 12),
        st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        st.sampled_from([0.0, 1.0, 2.0]),
        st.sampled_from([0, 100, 300]),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda rows: [
        _want(
            f"m{number}",
            needed,
            held=held,
            weight=weight,
            cores_each=cores,
            bytes_each=size,
            min_instances=least,
        )
        for number, (needed, held, weight, cores, size, least) in enumerate(rows)
    ]
)
limits = st.builds(
    Limit,
    instances=st.none() | st.integers(10, 30),
    cores=st.none() | st.integers(20, 40).map(float),
    memory_bytes=st.none() | st.integers(3000, 6000),
)


def _used(counts: dict[str, int], of: list[Want]) -> tuple[int, float, int]:
    """Instances, cores and bytes of these counts."""
    return (
        sum(counts.values()),
        sum(counts[want.model] * want.cores_each for want in of),
        sum(counts[want.model] * want.bytes_each for want in of),
    )


def _within(counts: dict[str, int], of: list[Want], limit: Limit) -> bool:
    """Whether the counts are within every limit."""
    most = (limit.instances, limit.cores, limit.memory_bytes)
    return all(m is None or used <= m for used, m in zip(_used(counts, of), most, strict=True))


def test_share_meets_the_needs_of_the_weightiest_first() -> None:
    """Weights 3, 2, 1, each in need of 4 instances, and 9 in all: 4, 4 and 1."""
    of = [_want("a", 4, weight=3), _want("b", 4, weight=2), _want("c", 4, weight=1)]
    assert share(of, Limit(instances=9)) == {"a": 4, "b": 4, "c": 1}


def test_share_leaves_what_is_over_with_whoever_holds_it() -> None:
    """2 + 2 are needed of 8; who holds 5 may keep them."""
    of = [_want("a", 2, held=5), _want("b", 2, held=1)]
    assert share(of, Limit(instances=8)) == {"a": 5, "b": 2}


def test_share_gives_a_part_where_no_whole_need_fits() -> None:
    """One model that needs 8 gets all 6 that there are."""
    assert share([_want("a", 8)], Limit(instances=6)) == {"a": 6}


@given(wants, limits)
@settings(max_examples=150, deadline=None)
def test_share_never_passes_the_budget_and_starves_nobody(of: list[Want], limit: Limit) -> None:
    """Within every limit, never below the least, never above the most."""
    counts = share(of, limit)
    assert _within(counts, of, limit)
    assert all(want.min_instances <= counts[want.model] <= want.max_instances for want in of)


@given(wants, st.integers(10, 30), st.sampled_from([1.5, 4.0]))
@settings(max_examples=150, deadline=None)
def test_share_never_gives_less_for_more_weight(of: list[Want], most: int, more: float) -> None:
    """The same model with a greater weight has at least as many instances."""
    heavier = [replace(of[0], weight=of[0].weight * more), *of[1:]]
    limit = Limit(instances=most)
    assert share(heavier, limit)["m0"] >= share(of, limit)["m0"]


@given(wants, limits, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_caps_keep_the_sum_within_the_budget_at_every_moment(
    of: list[Want], limit: Limit, random
) -> None:
    """Models that grow to their caps at once and shrink whenever they like never pass it."""
    of = [replace(want, held=max(want.held, want.min_instances)) for want in of]
    if not _within({want.model: want.held for want in of}, of, limit):
        of = [replace(want, held=want.min_instances) for want in of]
    for _ in range(8):
        goals = share(of, limit)
        for number, want in enumerate(of):
            most = cap(want.model, of, goals, limit)
            if most > want.held or random.random() < 0.5:  # a giver may take its time
                of[number] = replace(want, held=most)
            assert _within({each.model: each.held for each in of}, of, limit)
        of = [replace(want, weight=random.choice([1.0, 3.0])) for want in of]


def test_caps_bring_the_giver_down_before_the_taker_rises() -> None:
    """8 of 8 are held; the weightier one needs 6: the other must first come down."""
    limit = Limit(instances=8)
    of = [_want("taker", 6, held=4, weight=3), _want("giver", 4, held=4)]
    goals = share(of, limit)
    assert goals == {"taker": 6, "giver": 2}
    assert [cap(name, of, goals, limit) for name in goals] == [4, 2]
    of[1] = replace(of[1], held=2)
    assert cap("taker", of, goals, limit) == 6


def test_a_second_copy_takes_room_while_it_loads() -> None:
    """3 instances whose second copy of 3 is loading leave 2 of 8."""
    of = [_want("a", 3, held=3, second=3), _want("b", 1, held=1)]
    assert cap("b", of, share(of, Limit(instances=8)), Limit(instances=8)) == 2


def _look(instances: int) -> Observation:
    """A look that shows nothing but a count."""
    return Observation(
        at_s=1.0, tick_id="t", counters=None, statistics=None, applied=applied_settings(instances)
    )


ONE = {"needed": 1, "hold": 1, "goal": 1, "capacities": {}}


def _held(seen: Observation, **need: Any) -> Decision:
    """A hold that tells of this need; of none without one."""
    return Decision(
        tick_id="t",
        at_s=1.0,
        reason=Reason.HOLD_STEADY,
        applied=seen.applied,
        desired=seen.applied,
        need=Need(**{"needed": 1, "hold": 1, "goal": 1, "capacities": {}, **need})
        if need
        else None,
    )


def test_nobody_grows_before_all_were_looked_at() -> None:
    """What a model that was not seen yet holds is not known."""
    shares = Shares(limit=Limit(instances=8), policies={"a": a_policy(), "b": a_policy()})
    seen = _look(2)
    assert shares.tick().cap("a", seen) == 2
    shares = shares.looked("a", seen, _held(seen), None).looked("b", seen, _held(seen), None)
    assert shares.tick().cap("a", seen) == 4


def test_what_a_look_does_not_say_stays_as_it_was() -> None:
    """Without data a model keeps its need, and what it holds."""
    seen = _look(3)
    known = _held(seen, needed=3, rate_rps=50.0, capacities={1: 20.0})
    before = want_of("a", seen, known, None, a_policy(), None)
    after = want_of("a", replace(seen, applied=None), _held(seen), None, a_policy(), before)
    assert (after.held, after.needed, after.rate_rps, after.capacities) == (3, 3, 50.0, {1: 20.0})


def test_the_averaged_load_follows_a_jump_at_once_and_noise_slowly() -> None:
    """100 to 103 is noise, 100 to 200 is not."""
    seen = _look(1)
    start = want_of("a", seen, _held(seen, rate_rps=100.0), None, a_policy(), None)
    assert start.rate_rps == 100.0
    noise = want_of("a", seen, _held(seen, rate_rps=103.0), None, a_policy(), start)
    assert 100.0 < noise.rate_rps < 101.0
    jump = want_of("a", seen, _held(seen, rate_rps=200.0), None, a_policy(), start)
    assert jump.rate_rps == 200.0


def _capped(story: Story, most: int, load_rps: float) -> Decision:
    """One tick of the story under a cap."""
    story.cap = most
    return story.tick(load_rps)


def test_a_model_above_its_share_gives_up_at_once_although_it_needs_more() -> None:
    """In one step, without patience and cooldown; and nobody undoes it for its latency."""
    story = Story(policy=a_policy(max_instances=4), applied=applied_settings(4))
    for _ in range(10):
        _capped(story, 4, 1500)
    decision = _capped(story, 1, 1500)
    assert decision.reason is Reason.OVER_BUDGET
    assert decision.desired is not None
    assert decision.desired.instances == 1
    assert decision.terms["cap_instances"] == 1.0
    for _ in range(60):
        _capped(story, 1, 1500)
    assert story.applied.instances == 1
    assert Reason.ROLLBACK not in story.reasons
    for _ in range(15):
        _capped(story, 4, 1500)
    assert story.applied.instances > 1


def test_an_idle_model_gives_up_what_others_need() -> None:
    """It has no service time yet, and 3 instances that others wait for."""
    story = Story(applied=applied_settings(3))
    for _ in range(8):
        _capped(story, 1, 0)
    assert story.reasons[-2:] == [Reason.HOLD_IDLE] * 2
    assert Reason.OVER_BUDGET in story.reasons
    assert story.applied.instances == 1


@given(
    st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 3000)), min_size=10, max_size=40),
    st.integers(2, 6),
)
@settings(max_examples=25, deadline=None)
def test_two_models_never_exceed_the_budget(loads: list[tuple[float, float]], most: int) -> None:
    """Whatever the loads are, the two stories hold no more than the budget together."""
    stories = {"a": Story(policy=a_policy(weight=3.0)), "b": Story(policy=a_policy())}
    policies: dict[str, Policy] = {name: story.policy for name, story in stories.items()}
    shares = Shares(limit=Limit(instances=most), policies=policies)
    for load in loads:
        shares = shares.tick()
        for (name, story), rate_rps in zip(stories.items(), load, strict=True):
            story.cap = shares.cap(name, _look(story.applied.instances))
            decision = story.tick(rate_rps)
            seen = _look(story.applied.instances)
            shares = shares.looked(name, seen, decision, None)
            assert sum(each.applied.instances for each in stories.values()) <= most


def test_the_least_of_all_models_must_fit_the_budget() -> None:
    """Three models at one instance each do not fit into two."""
    policy = PolicyFile(budget=Budget(instances=2))
    with pytest.raises(ConfigError, match="instances = 2, must be at least 3"):
        shares_of(policy, {name: policy.policy_of(name) for name in "abc"})
    assert shares_of(PolicyFile(), {"a": policy.policy_of("a")}) is None


def test_three_models_in_overload_are_worth_more_than_a_proportional_split() -> None:
    """130 % of the load in the simulator: 10 points above the split, and nobody starves."""
    conch = many.run(duration_s=120)
    split = many.run(duration_s=120, conch=False)
    assert conch.weighted_attainment >= split.weighted_attainment + 0.1
    assert conch.peak_instances <= many.INSTANCES
    assert all(each.least_instances >= 1 for each in conch.members.values())
    assert all(each.answered_fraction > 0.05 for each in conch.members.values())
