"""Properties of the core that hold for every rule, whatever it sees; ``conch`` above all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control import codec
from control.core.budget import Limit, Shares
from control.core.policies import RULES, rule_named
from control.core.policies.rule import Rule
from control.core.state import Applied, ControlState, InFlight
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision, Observation, Policy, Reason, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics
from tests.unit import story
from tests.unit.story import TRUE, a_policy

EVERY = sorted(RULES)
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
POLICY = a_policy(max_instances=6, cores=6, load_s=2.0)


@dataclass
class Life:
    """One model under one rule: arithmetic serves, changes take ``load_s``, events are recorded."""

    rule: Rule
    policy: Policy = POLICY
    applied: Settings = field(default_factory=lambda: story.settings(2))
    load_s: float = 2.0
    at_s: float = 1000.0
    state: ControlState = field(default_factory=ControlState)
    counters: ModelCounters = field(default_factory=ModelCounters)
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    events: list[Event] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    changes: list[Decision] = field(default_factory=list)
    acting: tuple[Decision, float] | None = None

    def lasts(self, loads: list[float], **seen: Any) -> Life:
        """A look a second, after so many arrivals in it each; changes are obeyed."""
        for load in loads:
            self.serves(load)
            self.obeys(self.looks(**seen))
        return self

    def serves(self, arrivals: float, tick_s: float = 1.0) -> None:
        """Totals after these arrivals; a backlog waits for its mean age."""
        self.at_s += tick_s
        full = self.applied.largest_batch
        can = self.applied.instances * full / TRUE.of(full) * tick_s
        waiting = self.counters.pending + arrivals
        done = min(waiting, can)
        size = full if waiting > can else max(1, min(full, round(done / tick_s * TRUE.of(1))))
        busy_s, queue_s = done / size * TRUE.of(size), done * (waiting - done) / can
        before = self.statistics.batches.get(size, BatchStat(count=0, busy_s=0.0))
        stat = BatchStat(count=before.count + round(done / size), busy_s=before.busy_s + busy_s)
        self.statistics = replace(self.statistics, batches={**self.statistics.batches, size: stat})
        self.counters = replace(
            self.counters,
            success=self.counters.success + done,
            request_s=self.counters.request_s + queue_s + done * TRUE.of(size),
            queue_s=self.counters.queue_s + queue_s,
            compute_infer_s=self.counters.compute_infer_s + done * TRUE.of(size),
            pending=waiting - done,
        )

    def seen(self, **changes: Any) -> Observation:
        """What is there to be seen now."""
        look = Observation(
            at_s=self.at_s,
            tick_id=f"t{len(self.decisions)}",
            counters=self.counters,
            statistics=self.statistics,
            applied=self.applied,
        )
        return replace(look, **changes)

    def looks(self, **changes: Any) -> Decision:
        """One look, after a change that has ended meanwhile."""
        if self.acting is not None and self.at_s >= self.acting[1]:
            decision, self.acting = self.acting[0], None
            assert decision.desired is not None
            ended = Applied(
                at_s=self.at_s,
                settings=decision.desired,
                before=decision.applied,
                reload=decision.fresh,
                ok=True,
                seconds=self.load_s,
                undo=decision.reason is Reason.ROLLBACK,
            )
            self._feed(Ended(change=ended))
            self.applied = decision.desired
            if decision.fresh:
                self.statistics = ModelStatistics()
        decision = self._feed(Looked(seen=self.seen(**changes)))
        assert decision is not None
        self.decisions.append(decision)
        return decision

    def obeys(self, decision: Decision) -> None:
        """Begin the change that was decided."""
        if not decision.changes:
            return
        assert self.acting is None, "one change at a time"
        assert decision.desired is not None
        assert decision.applied is not None
        self.changes.append(decision)
        self.acting = decision, self.at_s + self.load_s
        change = InFlight(since_s=self.at_s, settings=decision.desired, before=decision.applied)
        self._feed(Begun(change=change))

    def _feed(self, event: Event) -> Decision | None:
        self.events.append(event)
        self.state, decision = step(self.rule, self.state, event, self.policy)
        return decision


@cache
def _settled(name: str, instances: int = 2) -> Life:
    """A minute at 700/s, long enough for every rule to have learnt and to rest."""
    return Life(rule=rule_named(name), applied=story.settings(instances)).lasts([700.0] * 60)


def _again(life: Life) -> Life:
    """The same life, to go on with."""
    return replace(
        life,
        events=list(life.events),
        decisions=list(life.decisions),
        changes=list(life.changes),
    )


# --- (a) within bounds ---

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
        rebatch_after_s=6.0,
        quiet_s=5.0,
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


# --- (b) no action on missing, stale or reset data ---


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
    life = _again(_settled(name))
    life.acting = None
    life.serves(load)
    decision = BAD[bad](life)
    assert decision.reason is Reason.HOLD_NO_DATA
    assert not decision.changes


def test_the_looks_of_these_tests_would_be_acted_upon_if_they_were_good() -> None:
    """The test above tests something."""
    for name in ("conch", "inferline", "ray-serve", "knative-kpa"):
        life = _again(_settled(name))
        life.serves(4000.0)
        first = life.looks()
        life.lasts([4000.0] * 60)
        assert first.changes or life.changes != _settled(name).changes, name
    life = _again(_settled("conch"))
    life.serves(4000.0)
    assert life.looks().changes


def test_conch_does_not_act_on_a_source_that_stands_still() -> None:
    """The same sample, again and again: no more than the fast window long."""
    life = _again(_settled("conch"))
    life.serves(4000.0)
    assert _stale(life).reason is Reason.HOLD_NO_DATA
    assert life.state.intervals[-1].end_s == life.at_s - life.policy.fast_window_s - 0.5


def test_a_failed_look_is_bridged_by_the_next_one() -> None:
    """The counters are totals: nothing that came meanwhile is lost, and no quiet time either."""
    life, other = _again(_settled("conch")), _again(_settled("conch"))
    life.serves(700.0)
    life.looks(counters=None)
    life.lasts([700.0])
    other.lasts([700.0, 700.0])
    assert life.state.started_s == other.state.started_s
    assert life.state.intervals[-1].arrivals == pytest.approx(1400.0)
    assert life.decisions[-1].terms["stable_rps"] == pytest.approx(
        other.decisions[-1].terms["stable_rps"]
    )


# --- (c) what is no number is rejected ---

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
    life = _again(_settled(name))
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
    life = _again(_settled(name))
    life.serves(load)
    bad, none = life.seen(**{path: number}), life.seen(**{path: None})
    answer = step(life.rule, life.state, Looked(seen=bad), life.policy)
    assert answer == step(life.rule, life.state, Looked(seen=none), life.policy)
    assert answer[1] is not None
    assert np.all(np.isfinite(list(answer[1].terms.values())))


@pytest.mark.parametrize("name", EVERY)
def test_every_term_of_every_story_is_finite(name: str) -> None:
    """Also where nothing is carried at all: an SLO that no batch can meet."""
    policy = replace(POLICY, slo_s=0.004, rebatch=True, rebatch_after_s=5.0)
    life = Life(rule=rule_named(name), policy=policy)
    life.lasts([0.0] * 5 + [50.0] * 20 + [3000.0] * 10 + [0.0] * 10)
    for decision in (*life.decisions, *_settled(name).decisions):
        assert np.all(np.isfinite(list(decision.terms.values()))), decision


# --- (d) constant load settles and stays ---


@pytest.mark.parametrize("rate_rps", [3.0, 150.0, 620.0, 1900.0])
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


# --- (e) more load never gives fewer instances ---


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
    life = _again(_calm(name, before, instances, quiet))
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


# --- (f) a replay gives the same ---


@pytest.mark.parametrize("name", EVERY)
def test_a_replay_of_the_events_gives_the_same_decisions_bit_by_bit(name: str) -> None:
    """From memory, and from the text that the journal keeps."""
    rng = np.random.default_rng(11)
    loads = np.repeat([60.0, 900.0, 2600.0, 300.0, 0.0], 25)
    life = Life(rule=rule_named(name), policy=replace(POLICY, rebatch=True, quiet_s=8.0))
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


# --- (g) models that share a budget never exceed it ---


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
    policy = replace(POLICY, quiet_s=5.0)
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
