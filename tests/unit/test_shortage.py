"""What a count was seen not to carry stands against the curve, for a while."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from control.core import shortage
from control.core.demand import Bound, Demand
from control.core.service_time import ServiceTime
from control.core.shortage import Shortage
from control.core.state import Applied, ControlState
from control.core.types import Policy, Reason, Settings
from control.core.wanted import Wanted
from tests.unit.story import TRUE, Story, a_policy, settings

NOW_S = 1000.0
POLICY: Policy = a_policy(slo_s=0.1, margin_fraction=0.1)
ONE = settings(1)


def _demand(**changes: object) -> Demand:
    """360/s lately, 350/s before, and 37 that wait."""
    base = Demand(
        fast_rps=360.0,
        stable_rps=350.0,
        load_rps=335.0,
        forecast_rps=350.0,
        bounds=(Bound(low_rps=330.0, likely_rps=370.0),),
        pending=45.0,
        excess=37.0,
        drain_s=0.12,
    )
    return replace(base, **changes)


def _lowered(
    *, ago_s: float = 2.0, before: int = 2, to: Settings = ONE, ok: bool = True
) -> Applied:
    down = Applied(at_s=NOW_S - ago_s, settings=to, reload=False, ok=ok)
    return replace(down, before=settings(before))


def _state(*changes: Applied, shortages: tuple[Shortage, ...] = ()) -> ControlState:
    return ControlState(changes=changes or (_lowered(),), shortages=shortages)


def _seen(
    state: ControlState, demand: Demand, *, capacity_rps: float = 400.0, panic: bool = True
) -> tuple[Shortage, ...]:
    want = Wanted(
        demand=demand,
        need_rps=demand.fast_rps,
        held_rps=0.0,
        capacities={1: capacity_rps, 2: 2.0 * capacity_rps},
        needed=2,
        at_least=2,
        hold=2,
        load_s=1.0,
        patience_s=30.0,
        panic=panic,
        fresh=False,
    )
    return shortage.seen(state, want, ONE, POLICY, at_s=NOW_S)


def test_a_scale_down_that_is_taken_back_is_remembered() -> None:
    """With the greater of the two rates less the margin, for as long as a block."""
    (found,) = _seen(_state(), _demand())
    assert found == Shortage(
        settings=ONE, carried_rps=pytest.approx(324.0), until_s=NOW_S + POLICY.blocked_s
    )


@pytest.mark.parametrize(
    ("state", "demand"),
    [
        pytest.param(_state(), _demand(fast_rps=500.0), id="the-load-climbs"),
        pytest.param(
            _state(),
            _demand(bounds=(Bound(low_rps=330.0, likely_rps=370.0, jumped=True),)),
            id="the-load-has-jumped",
        ),
        pytest.param(ControlState(), _demand(), id="no-change-before"),
        pytest.param(_state(_lowered(ago_s=61.0)), _demand(), id="it-was-enough-for-a-minute"),
        pytest.param(_state(_lowered(before=1)), _demand(), id="the-count-is-what-it-was"),
        pytest.param(_state(_lowered(to=settings(2))), _demand(), id="another-count"),
        pytest.param(_state(_lowered(ok=False)), _demand(), id="it-was-not-made"),
    ],
)
def test_what_tells_nothing_of_the_count_is_not_remembered(
    state: ControlState, demand: Demand
) -> None:
    """A climb needs more as well, and what was enough at first is judged by the curve."""
    assert _seen(state, demand) == ()


def test_a_load_that_is_surely_too_much_is_remembered_without_a_queue() -> None:
    """Bursts that may come, and a load below the capacity, say nothing of it."""
    calm = _demand(pending=0.0, excess=0.0, drain_s=0.0)
    (found,) = _seen(_state(), calm, capacity_rps=330.0, panic=False)
    assert found.carried_rps == calm.load_rps
    assert _seen(_state(), calm, capacity_rps=340.0, panic=False) == ()
    more = replace(calm, load_rps=found.carried_rps + 10.0)
    again = _seen(_state(shortages=(found,)), more, capacity_rps=found.carried_rps, panic=False)
    assert again == (found,), "it must not confirm itself"


def test_the_newest_of_a_count_counts_and_old_ones_go() -> None:
    """One for each of the settings, none that has expired."""
    old = Shortage(settings=ONE, carried_rps=100.0, until_s=NOW_S + 5.0)
    other = Shortage(settings=settings(2), carried_rps=500.0, until_s=NOW_S + 5.0)
    gone = Shortage(settings=settings(3), carried_rps=500.0, until_s=NOW_S)
    state = _state(shortages=(old, other, gone))
    found = _seen(state, _demand())
    assert [one.carried_rps for one in found] == [500.0, pytest.approx(324.0)]


def test_a_shortage_caps_its_count_and_those_below_until_it_expires() -> None:
    """More instances, another batching and a later time are not its business."""
    capacities = {1: 300.0, 2: 400.0, 3: 600.0}
    short = (Shortage(settings=settings(2), carried_rps=270.0, until_s=NOW_S),)

    def at(at_s: float, *, batch: int = 8) -> dict[int, float]:
        return shortage.capped(capacities, short, settings(3, batch=batch), at_s=at_s)

    assert at(NOW_S - 1.0) == {1: 270.0, 2: 270.0, 3: 600.0}
    assert at(NOW_S) == capacities
    assert at(NOW_S - 1.0, batch=16) == capacities


@dataclass
class SharedCores(Story):
    """One instance carries 242/s; by the curve of two, it is more than 300/s."""

    @property
    def true(self) -> ServiceTime:
        """ℓ(b) by the count in force."""
        alone = self.applied.instances == 1
        return ServiceTime(alpha_s=0.001, beta_s=0.025) if alone else TRUE


def test_a_count_that_was_gone_down_to_in_vain_is_remembered() -> None:
    """And left alone, at this load."""
    story = SharedCores(policy=a_policy(max_instances=2, cores=2), applied=settings(2))
    story.passes(300, load_rps=300)
    counts = [decision.desired.instances for decision in story.changes if decision.desired]
    assert counts == [1, 2]
    (short,) = story.state.shortages
    assert short.settings == settings(1)
    assert short.carried_rps < 300.0


@pytest.mark.parametrize(
    ("carried_rps", "until_s", "down_at_s"),
    [
        pytest.param(310.0, 1200.0, 1200.0, id="too-few-for-this-load"),
        pytest.param(400.0, 1200.0, 1040.0, id="too-few-for-a-greater-one"),
    ],
)
def test_a_count_that_was_too_few_is_not_gone_back_to_for_a_while(
    carried_rps: float, until_s: float, down_at_s: float
) -> None:
    """One of two instances is enough for 300/s by the curve, and the quiet time is 40 s."""
    short = Shortage(settings=settings(1), carried_rps=carried_rps, until_s=until_s)
    story = Story(applied=settings(2), state=ControlState(shortages=(short,)))
    story.passes(300, load_rps=300)
    (down,) = story.changes
    assert down.reason is Reason.SCALE_DOWN
    assert down.at_s == pytest.approx(down_at_s, abs=2.0)
