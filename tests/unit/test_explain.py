"""A decision in words: where the need comes from, and what comes before any formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cli.control import _effect
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation, Settings
from control.journal import explain
from control.tick import Tick
from serving.metrics import ModelCounters

ONE = Settings(instances=1, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)
TERMS = {
    "fast_rps": 90.0,
    "load_rps": 80.0,
    "need_rps": 80.0,
    "slo_s": 0.4,
    "capacity_1_rps": 100.0,
    "capacity_2_rps": 200.0,
}


def told(reason: Reason = Reason.HOLD_STEADY, *, applied: Settings = ONE, **terms: Any) -> str:
    """The explanation of a decision with these terms beside ``TERMS``."""
    decision = Decision(
        tick_id="t", at_s=0.0, reason=reason, applied=applied, desired=applied, terms=terms
    )
    return "\n".join(explain.lines("m", decision, now_s=1.0))


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({}, "need = 80.0 req/s: what the load is at least"),
        ({"need_rps": 120.0}, "need = 120.0 req/s: a load of surely 80.0 req/s is too much"),
    ],
    ids=["load", "jump"],
)
def test_explain_says_where_the_need_comes_from(terms: dict[str, float], says: str) -> None:
    """The load itself, or the likely rate of a jump."""
    assert says in told(**{**TERMS, **terms})


@pytest.mark.parametrize(
    ("need", "applied", "says"),
    [
        ((1, 1, 1), 1, "goal = 1 instances: what the need takes"),
        ((1, 1, 4), 1, "goal = 4 instances: all that add capacity"),
        ((1, 1, 4), 4, "goal = 4 instances: held, as nobody else"),
        ((1, 2, 2), 4, "goal = 2 instances: the rest has cost as much idle"),
    ],
)
def test_explain_says_where_the_goal_comes_from(
    need: tuple[int, int, int], applied: int, says: str
) -> None:
    """The load, what is free, or the price of idle instances; and what each count carries."""
    needed, hold, goal = need
    carried = {1: 100.0, 2: 200.0, 4: 400.0}
    decision = Decision(
        tick_id="t",
        at_s=0.0,
        reason=Reason.HOLD_STEADY,
        applied=replace(ONE, instances=applied),
        desired=replace(ONE, instances=applied),
        need=Need(rate_rps=90.0, needed=needed, hold=hold, goal=goal, capacities=carried),
        terms=TERMS,
    )
    text = "\n".join(explain.lines("m", decision, now_s=1.0))
    assert says in text
    assert "4 × instance:   400.0 req/s" in text


def test_explain_of_a_rule_shows_the_rule_s_own_numbers() -> None:
    """A rule has no need of ours; that is no missing data."""
    text = told(Reason.SCALE_BY_RULE, utilisation=0.9)
    assert "missing" not in text
    assert "nothing to decide from" not in text
    assert "utilisation  0.9" in text


def test_explain_names_version_and_cache_where_they_are_set() -> None:
    """Nothing of the settings is left out."""
    applied = Settings(
        instances=2,
        max_batch_size=8,
        dynamic_batching=True,
        max_queue_delay_s=0.0,
        version=3,
        response_cache=True,
        refuse_after_s=0.25,
    )
    assert (
        "2 instances, batches of up to 8, max queue delay 0 ms, version 3, response cache, "
        "refuses what waited 250 ms"
    ) in told(applied=applied)


def test_explain_says_what_refusing_would_keep() -> None:
    """Twice as much comes as one carries; nothing is said where it is carried, or refused."""
    need = Need(rate_rps=200.0, needed=2, hold=2, goal=2, capacities={1: 100.0, 2: 200.0})
    decision = Decision(
        tick_id="t", at_s=0.0, reason=Reason.AT_LIMIT, applied=ONE, desired=ONE, need=need
    )
    said = "`late: refuse` would keep about 50 % in time"
    assert said in "\n".join(explain.lines("m", decision, now_s=1.0))
    for other in (replace(ONE, instances=2), replace(ONE, refuse_after_s=0.3)):
        calm = replace(decision, applied=other)
        assert said not in "\n".join(explain.lines("m", calm, now_s=1.0))
    own = Observation(
        at_s=0.0, tick_id="t", counters=None, statistics=None, applied=ONE, may_refuse=False
    )
    assert said not in "\n".join(explain.lines("m", decision, now_s=1.0, seen=own))


@pytest.mark.parametrize("reason", list(Reason))
def test_effect_of_a_change_needs_the_terms_of_no_reason(reason: Reason) -> None:
    """A decision right after a load has few of them."""
    two = replace(ONE, instances=2)
    for terms in ({}, TERMS, {"plan_gain": 1.5}, {"capacity_1_rps": 1.0, "capacity_2_rps": 2.0}):
        for desired in (two, replace(ONE, max_batch_size=16)):
            decision = Decision(
                tick_id="t", at_s=0.0, reason=reason, applied=ONE, desired=desired, terms=terms
            )
            seen = Observation(at_s=0.0, tick_id="t", counters=None, statistics=None, applied=ONE)
            assert _effect(Tick(model="m", observation=seen, decision=decision))
    assert "80 req/s" in _effect(
        Tick(model="m", observation=seen, decision=replace(decision, desired=two, terms=TERMS))
    )


def test_an_edit_is_told_with_its_two_ways_out_and_an_idle_model_with_its_past() -> None:
    """The reason alone says neither."""
    decision = Decision(
        tick_id="t", at_s=0.0, reason=Reason.HOLD_IDLE, applied=ONE, desired=ONE, terms={}
    )
    seen = Observation(
        at_s=0.0,
        tick_id="t",
        counters=ModelCounters(success=42.0),
        statistics=None,
        applied=ONE,
        edited=True,
    )
    text = "\n".join(explain.lines("m", decision, now_s=1.0, seen=seen))
    assert "conch repo load m" in text
    assert "conch repo rollback m --to N" in text
    assert "No request while watching; 42 since the server started." in text
    assert "conch repo load" not in "\n".join(explain.lines("m", decision, now_s=1.0))
