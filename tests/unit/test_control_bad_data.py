"""No rule acts on what is missing, stale, reset or no number; ``conch`` above all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.reasons import Reason
from control.core.rules import rule_named
from control.core.step import Looked, step
from control.core.types import Decision, Observation
from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics
from tests.unit.life import EVERY, FEW, POLICY, Life, again, settled

# --- no action on missing, stale or reset data ---


def _without(part: str) -> Callable[[Life], Decision]:
    return lambda life: life.looks(**{part: None})


def _reset(life: Life) -> Decision:
    life.counters = replace(ModelCounters(), pending=life.counters.pending)
    life.statistics = ModelStatistics()
    return life.looks()


def _one_counter_back(life: Life) -> Decision:
    return life.looks(counters=replace(life.counters, queue_s=-1.0))


def _gap(life: Life) -> Decision:
    life.at_s += 2 * life.policy.stale_s
    return life.looks()


def _stale(life: Life) -> Decision:
    """A source that has stood still for longer than the fast window."""
    stamp = life.at_s
    life.looks(counters_at_s=stamp)
    life.at_s += life.policy.fast_window_s + 0.5
    return life.looks(counters_at_s=stamp)


def _clock_back(life: Life) -> Decision:
    life.at_s -= 30.0
    return life.looks()


BAD: Mapping[str, Callable[[Life], Decision]] = {
    "no counters": _without("counters"),
    "no statistics": _without("statistics"),
    "no settings": _without("applied"),
    "reset": _reset,
    "one counter back": _one_counter_back,
    "gap": _gap,
    "clock back": _clock_back,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("load", [0.0, 4000.0])
@pytest.mark.parametrize("name", EVERY)
def test_no_rule_acts_on_data_that_is_missing_or_was_reset(
    name: str, load: float, bad: str
) -> None:
    """Whatever the load: the very look on which a good one would have acted."""
    life = again(settled(name))
    life.acting = None
    life.serves(load)
    decision = BAD[bad](life)
    assert decision.reason is Reason.HOLD_NO_DATA
    assert not decision.changes


def test_the_looks_of_these_tests_would_be_acted_upon_if_they_were_good() -> None:
    """The test above tests something."""
    for name in ("conch", "inferline", "ray-serve", "knative-kpa"):
        life = again(settled(name))
        life.serves(4000.0)
        first = life.looks()
        life.lasts([4000.0] * 60)
        assert first.changes or life.changes != settled(name).changes, name
    life = again(settled("conch"))
    life.serves(4000.0)
    assert life.looks().changes


def test_conch_does_not_act_on_a_source_that_stands_still() -> None:
    """The same sample, again and again: no more than the fast window long."""
    life = again(settled("conch"))
    life.serves(4000.0)
    assert _stale(life).reason is Reason.HOLD_NO_DATA
    assert life.state.intervals[-1].end_s == life.at_s - life.policy.fast_window_s - 0.5


def test_a_failed_look_is_bridged_by_the_next_one() -> None:
    """The counters are totals: nothing that came meanwhile is lost, and no quiet time either."""
    life, other = again(settled("conch")), again(settled("conch"))
    life.serves(700.0)
    life.looks(counters=None)
    life.lasts([700.0])
    other.lasts([700.0, 700.0])
    assert life.state.started_s == other.state.started_s
    assert life.state.intervals[-1].arrivals == pytest.approx(1400.0)
    assert life.decisions[-1].terms["stable_rps"] == pytest.approx(
        other.decisions[-1].terms["stable_rps"]
    )


# --- what is no number is rejected ---

NO_NUMBER = st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e300])
CORE = (
    "at_s",
    "counters_at_s",
    "counters.success",
    "counters.failure",
    "counters.pending",
    "counters.request_s",
    "counters.queue_s",
    "counters.compute_infer_s",
    "counters.exec_count",
    "statistics.queue_s",
    "statistics.success_count",
    "batch.busy_s",
    "batch.count",
    "applied.max_queue_delay_s",
)
GAUGES = (
    "arrivals",
    "request_p99_s",
    "cpu_fraction",
    "memory_free_bytes",
    "memory_copy_bytes",
    "gpu_fraction",
)


def _spoilt(seen: Observation, path: str, number: float) -> Observation:
    """The look with this number in this place."""
    part, _, name = path.partition(".")
    if not name:
        return replace(seen, **{part: number})
    if part == "batch":
        assert seen.statistics is not None
        batches = dict(seen.statistics.batches)
        size = max(batches)
        batches[size] = replace(batches[size], **{name: number})
        return replace(seen, statistics=replace(seen.statistics, batches=batches))
    return replace(seen, **{part: replace(getattr(seen, part), **{name: number})})


@pytest.mark.parametrize("name", EVERY)
@FEW
@given(path=st.sampled_from(CORE), number=NO_NUMBER, load=st.sampled_from([0.0, 700.0, 4000.0]))
def test_a_look_that_is_no_number_is_as_if_it_had_not_come(
    name: str, path: str, number: float, load: float
) -> None:
    """No exception, no change, finite terms; and nothing of it stays in the memory."""
    life = again(settled(name))
    life.serves(load)
    bad = _spoilt(life.seen(), path, number)
    state, decision = step(life.rule, life.state, Looked(seen=bad), life.policy)
    assert decision is not None
    assert decision.reason is Reason.HOLD_NO_DATA
    assert not decision.changes
    assert np.all(np.isfinite(list(decision.terms.values())))
    assert state == life.state
    good = Looked(seen=life.seen())
    assert step(life.rule, state, good, life.policy) == step(
        life.rule, life.state, good, life.policy
    )


@pytest.mark.parametrize("name", EVERY)
@FEW
@given(path=st.sampled_from(GAUGES), number=NO_NUMBER, load=st.sampled_from([0.0, 4000.0]))
def test_a_gauge_that_is_no_number_is_one_that_is_not_told(
    name: str, path: str, number: float, load: float
) -> None:
    """A decision can do without it."""
    life = again(settled(name))
    life.serves(load)
    bad, none = life.seen(**{path: number}), life.seen(**{path: None})
    answer = step(life.rule, life.state, Looked(seen=bad), life.policy)
    assert answer == step(life.rule, life.state, Looked(seen=none), life.policy)
    assert answer[1] is not None
    assert np.all(np.isfinite(list(answer[1].terms.values())))


@pytest.mark.parametrize("name", EVERY)
def test_every_term_of_every_story_is_finite(name: str) -> None:
    """Also where nothing is carried at all: an SLO that no batch can meet."""
    policy = replace(POLICY, slo_s=0.004, rebatch=True)
    life = Life(rule=rule_named(name), policy=policy)
    life.lasts([0.0] * 5 + [50.0] * 20 + [3000.0] * 10 + [0.0] * 10)
    for decision in (*life.decisions, *settled(name).decisions):
        assert np.all(np.isfinite(list(decision.terms.values()))), decision
