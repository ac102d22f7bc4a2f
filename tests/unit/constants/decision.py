"""Outcomes of the constants of ``core/decision``."""

from __future__ import annotations

from control.core.decision.limits import may_act_at_s
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.reasons import Reason
from control.core.rules import rule_named
from control.core.types import Observation
from tests.unit.constants.case import first, outcome
from tests.unit.guarded import guarded
from tests.unit.life import Life
from tests.unit.story import Story, a_policy, settings


@outcome("decision.instances.WAIT_FOR_SHARE_S")
def _() -> object:
    """Seconds that a model in need of four waits before it takes the two that it may have."""
    story = Story(policy=a_policy(), cap=2).passes(20, load_rps=100)
    return first(range(1, 60), lambda _: story.tick(2000.0).changes)


@outcome("decision.instances.LEAST_LOOKS")
def _() -> object:
    """Looks a minute apart until four idle instances become one."""
    story = Story(policy=a_policy(stale_s=100.0), applied=settings(4))
    for look in range(1, 20):
        story.at_s += 59.0
        if story.tick(50.0).reason is Reason.SCALE_DOWN:
            return look
    return None


@outcome("decision.facts.WARM_FRACTION", about=1.0)
def _() -> object:
    """Seconds until a count may change without a backlog; the stable window is 6 s."""
    story = Story(policy=a_policy())
    return first(
        range(1, 60),
        lambda _: story.tick(100.0).reason not in (Reason.HOLD_WARMING_UP, Reason.HOLD_NO_DATA),
    )


@outcome("decision.limits.COPY_MARGIN", about=1.0)
def _() -> object:
    """Least free memory, % of a copy, for one instance more."""
    applied = settings(1)

    def fits(percent: int) -> bool:
        seen = Observation(
            at_s=0.0,
            tick_id="t",
            counters=None,
            statistics=None,
            applied=applied,
            memory_free_bytes=10 * percent,
            memory_copy_bytes=1000,
        )
        found = guarded(settings(2), applied, ControlState(), a_policy(), at_s=0.0, seen=seen)
        return found.settings.instances == 2

    return first(range(100, 300), fits)


@outcome("decision.limits.LEAST_WAIT_S")
def _() -> object:
    """Seconds until the next try while Triton is not there, without a cooldown."""
    change = Applied(at_s=0.0, settings=settings(2), reload=False, ok=False, unavailable=True)
    return may_act_at_s(ControlState(changes=(change,)), a_policy(cooldown_s=0.0))


@outcome("decision.bounds.STEP_DOWN")
def _() -> object:
    """Counts on the way from eight instances to the three that are allowed."""
    policy = a_policy(min_instances=3, max_instances=3, cores=2, slo_s=0.2)
    life = Life(
        rule=rule_named("conch"), policy=policy, applied=settings(8, batch=1, dynamic=False)
    ).lasts([100.0] * 60)
    return tuple(d.desired.instances for d in life.changes if d.desired is not None)
