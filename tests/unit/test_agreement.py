"""Counters and statistics that contradict each other are believed neither way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from control.core.load.agreement import AGREED_S, Agreement
from control.core.load.windows import Interval
from control.core.reasons import Reason
from control.journal import explain
from serving.metrics import ModelCounters
from serving.statistics import ModelStatistics
from tests.unit import story
from tests.unit.intervals import counted
from tests.unit.life import EVERY, Life, again, settled
from tests.unit.story import a_policy, held_for

QUIET = a_policy(max_instances=6, cores=6, load_s=2.0, idle_cost=held_for(5.0), cooldown_s=1.0)
Lie = Callable[[ModelCounters, ModelCounters], ModelCounters]
"""From the counters at the start of the lie and the true ones now."""


def _scaled(factor: float) -> Lie:
    def lie(at_start: ModelCounters, now: ModelCounters) -> ModelCounters:
        return ModelCounters(
            **{
                f.name: getattr(at_start, f.name)
                + factor * (getattr(now, f.name) - getattr(at_start, f.name))
                for f in fields(ModelCounters)
            }
        )

    return lie


LIES: dict[str, Lie] = {
    "frozen": lambda at_start, now: at_start,
    "zeroed": lambda at_start, now: ModelCounters(),
    "negative": lambda at_start, now: ModelCounters(success=-5.0, request_s=-5.0),
    "a tenth": _scaled(0.1),
    "of a server without load": lambda at_start, now: ModelCounters(success=7.0),
}


def _under(lie: Lie, life: Life, *, seconds: int, load: float) -> list[int]:
    """The instances wanted at each look of so many seconds under the lie."""
    at_start, wanted = life.counters, []
    for _ in range(seconds):
        life.serves(load)
        decision = life.looks(counters=lie(at_start, life.counters))
        life.obeys(decision)
        assert decision.desired is not None
        wanted.append(decision.desired.instances)
    return wanted


def _halved(seconds: float, *, rate: float = 70.0, tick_s: float = 0.25) -> Agreement:
    """Both sources at so many requests a second, then so many seconds of half of them counted."""
    agreement, count, at_s = Agreement(), round(30.0 / tick_s), 0.0
    for looks, share in ((count, 1.0), (round(seconds / tick_s), 0.5)):
        for _ in range(looks):
            at_s, told = at_s + tick_s, rate * tick_s
            statistics = replace(ModelStatistics(), success_count=told)
            new = counted(at_s, share * told, span_s=tick_s, statistics=statistics)
            agreement = agreement.absorb(new)
    return agreement


def test_half_of_few_requests_is_doubted_before_a_short_patience_is_over() -> None:
    """At 70/s and four looks a second no single look shows it, and the proof takes some 17 s."""
    assert not _halved(0.0).doubtful
    proof, doubt = _halved(20.0), _halved(2.5)
    assert proof.broken
    assert doubt.doubtful
    assert not doubt.broken


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", EVERY)
def test_no_rule_shrinks_for_counters_that_the_statistics_contradict(name: str, lie: str) -> None:
    """A minute of a load that needs what is there, and a page that says otherwise."""
    life = again(settled(name, 4))
    life.policy = QUIET
    life.acting = None
    life.lasts([900.0] * 10)
    life.acting = None
    before = life.applied.instances
    wanted = _under(LIES[lie], life, seconds=60, load=900.0)
    assert min(wanted[:2]) >= before - 1
    assert min(wanted[2:]) >= life.applied.instances
    assert life.applied.instances >= before - 1


@pytest.mark.parametrize("lie", ["frozen", "zeroed", "a tenth"])
def test_conch_says_which_source_contradicts_which(lie: str) -> None:
    """The reason, both rates, and who is probably wrong."""
    life = again(settled("conch", 4))
    _under(LIES[lie], life, seconds=5, load=700.0)
    last = life.decisions[-1]
    assert last.reason is Reason.HOLD_CONTRADICTED
    assert last.terms["counters_rps"] < last.terms["statistics_rps"]
    told = "\n".join(explain.lines("m", last, now_s=last.at_s))
    assert "/metrics counts" in told
    assert "counter_latencies" in told


def test_a_contradiction_is_said_before_an_edit() -> None:
    """It is not known then what the model does at all."""
    life = again(settled("conch", 4))
    stands_still = life.counters
    _under(LIES["frozen"], life, seconds=5, load=700.0)
    life.serves(700.0)
    decision = life.looks(counters=stands_still, edited=True)
    assert decision.reason is Reason.HOLD_CONTRADICTED
    assert "counters_rps" in decision.terms


def test_conch_does_not_take_the_catching_up_of_a_page_for_a_load() -> None:
    """The page comes back, and its counters jump by all that came meanwhile."""
    life = again(settled("conch", 4))
    life.lasts([700.0] * 20)
    _under(LIES["frozen"], life, seconds=20, load=700.0)
    before = life.applied.instances
    for _ in range(20):
        life.serves(700.0)
        decision = life.looks()
        assert not decision.changes, decision.reason
    assert life.applied.instances == before
    assert life.decisions[-1].reason is not Reason.HOLD_CONTRADICTED


def _told(end_s: float, count: float, told: int | None) -> Interval:
    """A second in which Triton's statistics told of so many."""
    statistics = None if told is None else ModelStatistics(success_count=told)
    return counted(end_s, count, statistics=statistics)


def _over(*spans: tuple[float, int | None]) -> Agreement:
    found = Agreement()
    for second, (count, told) in enumerate(spans, start=1):
        found = found.absorb(_told(float(second), count, told))
    return found


def test_agreement_bears_reads_that_lie_a_second_apart() -> None:
    """A load that comes and goes by the second, read once before it and once after."""
    assert not _over((100.0, 0), (0.0, 100), (100.0, 0), (0.0, 100)).broken
    assert not _over(*[(100.0, 100)] * 5, (0.0, 100), (200.0, 100)).broken


def test_agreement_of_few_requests_proves_nothing_by_itself() -> None:
    """Three requests that one source has not seen."""
    assert not _over((0.0, 1), (0.0, 1), (0.0, 1)).broken
    assert _over(*[(0.0, 1)] * 12).broken
    assert _over(*[(0.0, 1)] * 60).broken
    assert not _over(*[(0.0, 1)] * 12, *[(0.0, 0)] * 30).broken


def test_agreement_lets_an_older_copy_drain() -> None:
    """After a reload, the counters are of both copies."""
    assert not _over((100.0, 100), (100.0, None), *[(100.0, 20)] * 20).broken
    assert _over((100.0, 100), *[(100.0, 20)] * 20).broken


def test_agreement_is_believed_again_after_it_held_for_a_while() -> None:
    """Not at the first look that agrees."""
    broken = _over(*[(0.0, 100)] * 3)
    assert broken.broken
    once = broken.absorb(_told(4.0, 100.0, 100))
    assert once.broken
    for second in range(5, 5 + round(AGREED_S)):
        once = once.absorb(_told(float(second), 100.0, 100))
    assert not once.broken


def test_what_only_the_statistics_count_as_failed_has_failed() -> None:
    """A server whose counters of failures stand still."""
    life = again(settled("conch"))
    life.serves(100.0)
    life.statistics = replace(life.statistics, fail_count=7)
    life.looks()
    assert life.state.intervals[-1].failed == 7
    assert story.TRUE.of(1) > 0
