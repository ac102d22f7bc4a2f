"""What the guard lets through while requests miss the SLO faster than the budget allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from control.core.decision.facts import NeedFacts
from control.core.judgement.safety import Safety
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.queue_model.knowledge import Knowledge
from control.core.reasons import Clamp, Reason
from control.core.service.learnt import Learnt
from control.core.types import Settings
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.guarded import guarded
from tests.unit.story import TRUE, Story, a_policy, settings

NOW_S = 5000.0


def test_guard_adds_only_capacity_while_the_budget_burns() -> None:
    """Up, a rollback, and a reload that is meant to carry more."""

    def to(wanted: Settings, **how: bool):
        return guarded(
            wanted,
            settings(2),
            ControlState(),
            a_policy(),
            at_s=NOW_S,
            safety=Safety(burns=True),
            **how,
        )

    assert to(settings(3)).settings.instances == 3
    assert to(settings(1)).clamps == (Clamp.BURN_RATE,)
    assert to(settings(2, batch=16)).clamps == (Clamp.BURN_RATE,)
    assert to(settings(2, batch=16), adds_capacity=True).clamps == ()
    assert to(settings(1), undo=True).settings == settings(1)


def test_guard_lets_go_of_instances_that_cannot_keep_the_slo() -> None:
    """Where no count does: fewer instances pass while the budget burns, and nothing else does."""
    stat = BatchStat(count=100, busy_s=100 * TRUE.of(1))
    learnt = Learnt().absorb(ModelStatistics(batches={1: stat}), instances=3, threads=1, span_s=5.0)
    policy = a_policy(slo_s=TRUE.of(1) / 2)
    known = Knowledge(learnt=learnt, policy=policy, threads=1, threads_ours=False)
    want = SimpleNamespace(reachable=False)
    out_of_reach = NeedFacts(known=known, want=want, versions=None, plan=None)

    def to(wanted: Settings, *, burns: bool = True, ago_s: float = 100.0):
        return guarded(
            wanted,
            settings(3),
            ControlState(
                changes=(Applied(at_s=NOW_S - ago_s, settings=settings(3), reload=False, ok=True),)
            ),
            replace(policy, versions=(1, 2)),
            at_s=NOW_S,
            safety=Safety(burns=burns),
            need=out_of_reach,
        )

    assert to(settings(2)).settings == settings(2)
    assert to(settings(2), ago_s=1.0).clamps == (Clamp.COOLDOWN,)
    for other in (settings(3, batch=16), settings(2, batch=16), replace(settings(2), version=2)):
        assert to(other).clamps == (Clamp.BURN_RATE,)
        assert to(other, burns=False).clamps == ()


@dataclass
class TimedStory(Story):
    """A story whose server says how long its requests took."""

    def _serve(self, load_rps: float) -> None:
        before = self.counters.success
        super()._serve(load_rps)
        took_s = (self.counters.success - before) * self.true.of(1)
        self.counters = replace(
            self.counters,
            compute_infer_s=self.counters.compute_infer_s + took_s,
            queue_s=self.counters.queue_s + self.pending,
            request_s=self.counters.request_s + took_s + self.pending,
        )


@pytest.mark.parametrize("slo_s", [0.003, 0.004])
def test_an_slo_that_every_request_misses_does_not_hold_instances(slo_s: float) -> None:
    """A request takes 5 ms, and two instances carry 500/s twice over; it is one way, once."""
    story = TimedStory(policy=a_policy(slo_s=slo_s), applied=settings(4))
    story.passes(40, load_rps=1500).passes(260, load_rps=500)
    assert story.last.terms["budget_burns"] == 1.0
    assert story.applied.instances == 2
    assert {decision.reason for decision in story.changes} == {Reason.SCALE_DOWN}
