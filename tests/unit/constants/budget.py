"""Outcomes of the constants of ``core/budget``, and of ``core/queue_model``."""

from __future__ import annotations

from dataclasses import replace

from control.core.budget.ladder import Climber, Plan, Stay, Step, plan
from control.core.budget.share import share
from control.core.budget.want import Limit, Want, want_of
from control.core.memory.state import ControlState
from control.core.queue_model.capacity import capacity_rps
from control.core.queue_model.knowledge import fewest
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation
from tests.unit.constants.case import first, outcome, steps
from tests.unit.story import TRUE, a_policy, settings

LINEAR = {count: 100.0 * count for count in range(1, 13)}


def _want(model: str, needed: int, *, held: int = 1, weight: float = 1.0) -> Want:
    """100 requests a second of capacity an instance."""
    return Want(
        model=model,
        weight=weight,
        held=held,
        needed=needed,
        hold=needed,
        max_instances=12,
        rate_rps=100.0 * needed,
        capacities=LINEAR,
    )


@outcome("budget.ladder.HOLDER")
def _() -> object:
    """Least weight, %, at which a model takes the room of another that holds all it needs."""

    def takes(percent: int) -> bool:
        wants = [_want("held", 4, held=4), _want("new", 4, weight=percent / 100)]
        return share(wants, Limit(instances=5))["new"] == 4

    return first(range(50, 400, 5), takes)


@outcome("budget.want.NEARLY", about=1.0)
def _() -> object:
    """Greatest load, req/s, at which a holder of 400 req/s asks for no fifth instance."""
    loads = range(600, 300, -5)
    return first(loads, lambda rps: replace(_want("m", 4, held=4), rate_rps=rps).lasting == 4)


def _averaged(before_rps: float, *now_rps: float) -> float:
    """The averaged load after looks at these rates."""
    want = replace(_want("m", 4), rate_rps=before_rps)
    applied = settings(4)
    seen = Observation(at_s=0.0, tick_id="t", counters=None, statistics=None, applied=applied)
    for rps in now_rps:
        need = Need(rate_rps=rps, needed=4, hold=4, goal=4, capacities=LINEAR)
        decision = Decision(
            tick_id="t",
            at_s=0.0,
            reason=Reason.HOLD_STEADY,
            applied=applied,
            desired=applied,
            need=need,
        )
        want = want_of("m", seen, decision, ControlState().in_flight, a_policy(), want)
    return want.rate_rps


@outcome("budget.want.JUMP")
def _() -> object:
    """Least rise of 1,000 req/s, %, that is another load at once."""
    return first(range(1, 99), lambda n: _averaged(1000.0, 1000.0 + 10 * n) >= 1000.0 + 10 * n)


@outcome("budget.want.NEW_PART")
def _() -> object:
    """Looks at a load that rose by a tenth until half of that is taken."""
    return first(range(1, 99), lambda n: _averaged(1000.0, *[1100.0] * n) >= 1050.0)


@outcome("queue_model.simulator.TAIL_FRACTION")
def _() -> object:
    """Capacity of an instance with an SLO of 20 ms, in steps of 10 req/s."""
    found = capacity_rps(
        TRUE,
        instances=1,
        largest_batch=8,
        max_queue_delay_s=0.0,
        policy=a_policy(slo_s=0.02),
    )
    return round(found, -1)


@outcome("queue_model.knowledge.WORTH")
def _() -> object:
    """Least gain by a second instance, %, for which it is added in an overload."""
    return first(steps(0, 99, 1), lambda n: fewest({1: 100.0, 2: 100.0 + n}, 300.0) == 2)


@outcome("budget.ladder.MOST_PATIENCE")
def _() -> object:
    """Seconds until a model asked twice as often has the rung after many in vain; 2 s to load."""

    def climber(model: str, rps: float, at: int) -> Climber:
        steps_ = (Step(size=3, worth=rps), Step(size=2, worth=rps / 2))
        return Climber(model=model, steps=steps_, at=at, climb_s=2.0)

    stays = {"held": Stay(cost=90.0, earned=0.0, givers=("new",))}
    vain = Plan(rungs={"held": 0, "new": 1}, stays=stays)
    for _ in range(20):  # each ends a stay in vain
        of = [climber("held", 30.0, 0), climber("new", 60.0, 1)]
        vain = replace(plan(of, 5, replace(vain, leads={"new": 1e6}), 0.0), stays=stays)
    made = replace(vain, rungs={"held": 0, "new": 1}, leads={}, stays={})
    for second in range(1, 1000):
        of = [climber("held", 30.0, 0), climber("new", 60.0, 1)]
        made = plan(of, 5, made, 1.0)
        if made.rungs["new"] == 0:
            return second
    return None
