"""Properties of the core that hold for every rule, whatever the load; ``conch`` above all."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.core.budget.shares import Shares
from control.core.budget.want import Limit
from control.core.memory.state import ControlState
from control.core.rules import rule_named
from control.core.step import Event, Looked, Started, step
from control.core.types import Decision
from control.journal import codec
from tests.unit import story
from tests.unit.life import EVERY, FEW, POLICY, Life, again
from tests.unit.story import TRUE, held_for

# --- within bounds ---

LOADS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 80.0, 600.0, 2500.0, 9000.0]), st.integers(3, 14)),
    min_size=2,
    max_size=5,
)


@pytest.mark.parametrize("name", EVERY)
@FEW
@given(
    loads=LOADS,
    least=st.integers(1, 3),
    more=st.integers(0, 5),
    granularity=st.sampled_from([1, 2]),
    start=st.integers(1, 4),
    cap=st.one_of(st.none(), st.integers(1, 8)),
    rebatch=st.booleans(),
)
def test_whatever_comes_the_desired_count_is_within_bounds(
    name: str,
    loads: list[tuple[float, int]],
    least: int,
    more: int,
    granularity: int,
    start: int,
    cap: int | None,
    rebatch: bool,
) -> None:
    """No change leads out of the policy, above the budget's share, or off the whole multiples."""
    policy = replace(
        POLICY,
        min_instances=least,
        max_instances=max(granularity, least + more),
        rebatch=rebatch,
        idle_cost=held_for(5.0),
    )
    life = Life(rule=rule_named(name), policy=policy, applied=story.settings(start * granularity))
    for load, seconds in loads:
        life.lasts([load] * seconds, granularity=granularity, cap=cap)
    for decision in life.changes:
        assert decision.desired is not None
        assert decision.applied is not None
        now, then = decision.applied.instances, decision.desired.instances
        assert then >= 1
        assert then % granularity == 0
        assert then <= policy.max_instances or then < now  # on the way down to it
        assert then >= least - least % granularity or then > now  # on the way up to it
        if cap is not None:
            assert then <= max(cap, least, granularity) or then <= now
        assert decision.desired.max_batch_size <= max(
            policy.max_batch_size, decision.applied.max_batch_size
        )


# --- constant load settles and stays ---


@pytest.mark.parametrize("rate_rps", [3.0, 150.0, 620.0, 1850.0])
def test_a_constant_load_settles_and_stays(rate_rps: float) -> None:
    """Poisson noise, ten minutes after the first two: few changes, and no to and fro."""
    rng = np.random.default_rng(7)
    life = Life(rule=rule_named("conch"), applied=story.settings(1))
    life.lasts(rng.poisson(rate_rps, 120).tolist())
    first = len(life.changes)
    life.lasts(rng.poisson(rate_rps, 600).tolist())
    late = life.changes[first:]
    assert len(late) <= 4
    ups = [d.desired.instances > d.applied.instances for d in late if d.desired and d.applied]
    assert sum(a != b for a, b in itertools.pairwise(ups)) <= 2
    carried = life.applied.instances * 8 / TRUE.of(8)
    assert carried >= rate_rps
    assert (life.applied.instances - 2) * 8 / TRUE.of(8) < rate_rps  # at most one to spare


def test_a_load_at_the_capacity_of_a_count_changes_no_more_often_than_that_pays() -> None:
    """Three carry 1,902/s just so: the fourth comes and goes, held for 45 s each time or more."""
    rng = np.random.default_rng(7)
    life = Life(rule=rule_named("conch"), applied=story.settings(3))
    life.lasts(rng.poisson(1900.0, 720).tolist())
    counts = [d.desired.instances for d in life.changes if d.desired]
    assert set(counts) <= {3, 4}
    ups = [d.at_s for d in life.changes if d.desired and d.desired.instances == 4]
    downs = [d.at_s for d in life.changes if d.desired and d.desired.instances == 3]
    assert all(down_s - up_s >= 45.0 for up_s, down_s in zip(ups, downs, strict=False))


# --- more load never gives fewer instances ---


@pytest.mark.parametrize("name", ["conch", "inferline"])
@settings(parent=FEW, max_examples=60)
@given(
    before=st.sampled_from([20.0, 500.0, 700.0, 1500.0]),
    instances=st.integers(1, 5),
    quiet=st.sampled_from([12, 50]),
    less=st.floats(0.0, 4000.0),
    extra=st.floats(0.0, 3000.0),
    waiting=st.floats(0.0, 1.0),
)
def test_from_equal_state_more_load_never_gives_fewer_instances(
    name: str,
    before: float,
    instances: int,
    quiet: int,
    less: float,
    extra: float,
    waiting: float,
) -> None:
    """The same statistics, more arrivals in the newest look: answered, or waiting."""
    life = again(_calm(name, before, instances, quiet))
    life.at_s += 1.0

    def asked(arrivals: float) -> int:
        each_s = life.counters.request_s / life.counters.success
        done = arrivals * (1.0 - waiting)
        counters = replace(
            life.counters,
            success=life.counters.success + done,
            request_s=life.counters.request_s + done * each_s,
            pending=life.counters.pending + arrivals * waiting,
        )
        look = Looked(seen=life.seen(counters=counters))
        decision = step(life.rule, life.state, look, life.policy)[1]
        assert decision is not None
        assert decision.desired is not None
        return decision.desired.instances

    assert asked(less) <= asked(less + extra)


@cache
def _calm(name: str, load: float, instances: int, seconds: int) -> Life:
    """So many seconds of a load; what is decided is not done."""
    life = Life(rule=rule_named(name), applied=story.settings(instances))
    for _ in range(seconds):
        life.serves(load)
        life.looks()
    return life


# --- a replay gives the same ---


@pytest.mark.parametrize("name", EVERY)
def test_a_replay_of_the_events_gives_the_same_decisions_bit_by_bit(name: str) -> None:
    """From memory, and from the text that the journal keeps."""
    rng = np.random.default_rng(11)
    loads = np.repeat([60.0, 900.0, 2600.0, 300.0, 0.0], 25)
    life = Life(
        rule=rule_named(name), policy=replace(POLICY, rebatch=True, idle_cost=held_for(8.0))
    )
    life.events.append(Started(at_s=999.0))
    life.lasts(rng.poisson(loads).tolist()[:60])
    life.serves(100.0)
    life.looks(counters=None)
    life.lasts(rng.poisson(loads).tolist()[60:])
    assert _replayed(life, life.events) == life.decisions
    read = [
        codec.event(codec.kind_of(event), json.loads(codec.text(event))) for event in life.events
    ]
    texts = [codec.text(decision) for decision in _replayed(life, read)]
    assert texts == [codec.text(decision) for decision in life.decisions]


def _replayed(life: Life, events: list[Event]) -> list[Decision]:
    state, decisions = ControlState(), []
    for event in events:
        state, decision = step(life.rule, state, event, life.policy)
        decisions += [decision] if decision is not None else []
    return decisions


# --- models that share a budget never exceed it ---


@FEW
@given(
    total=st.integers(2, 7),
    loads=st.lists(
        st.tuples(
            st.sampled_from([0.0, 100.0, 900.0, 3000.0]),
            st.sampled_from([0.0, 100.0, 900.0, 3000.0]),
            st.integers(4, 25),
        ),
        min_size=2,
        max_size=5,
    ),
    weight=st.sampled_from([1.0, 3.0]),
    load_s=st.sampled_from([0.5, 2.0, 7.0]),
)
def test_two_models_never_exceed_their_budget(
    total: int, loads: list[tuple[float, float, int]], weight: float, load_s: float
) -> None:
    """What is in force, what is being loaded, and a second copy of a scale up, all together."""
    policy = replace(POLICY, idle_cost=held_for(5.0))
    lives = {
        name: Life(
            rule=rule_named("conch"),
            policy=replace(policy, weight=each),
            applied=story.settings(1),
            load_s=load_s,
        )
        for name, each in (("a", 1.0), ("b", weight))
    }
    shares = Shares(
        limit=Limit(instances=total), policies={n: one.policy for n, one in lives.items()}
    )
    for load_a, load_b, seconds in loads:
        for _ in range(seconds):
            shares = shares.tick()
            for name, load in (("a", load_a), ("b", load_b)):
                life = lives[name]
                life.serves(load)
                cap = shares.cap(name, life.seen())
                decision = life.looks(cap=cap)
                life.obeys(decision)
                seen = life.seen(cap=cap)
                shares = shares.looked(name, seen, decision, life.state.in_flight)
                assert sum(_holds(one) for one in lives.values()) <= total


def _holds(life: Life) -> int:
    """Instances of this model, of both copies while one is loaded beside the other."""
    if life.acting is None:
        return life.applied.instances
    decision = life.acting[0]
    assert decision.desired is not None
    then = decision.desired.instances
    return life.applied.instances + then if decision.fresh else max(life.applied.instances, then)
