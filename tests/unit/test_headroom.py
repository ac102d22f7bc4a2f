"""Bursts on record: what is one, how large it was, and which are held for."""

from __future__ import annotations

import numpy as np
import pytest

from control.core.headroom import Headroom
from tests.unit.bursts import FROM_S, held_rps, played
from tests.unit.story import Story, a_policy, settings

AFTER_S = FROM_S + 60 + 15 + 60


def _with_burst(factor: float, *, seconds: int = 15) -> list[float]:
    return [100.0] * 60 + [100.0 * factor] * seconds + [100.0] * 60


def test_a_burst_is_written_down_once_it_is_over() -> None:
    """Twice the level for 15 s: one entry, a ratio of two."""
    record = played(_with_burst(2.0))
    assert len(record.bursts) == 1
    assert record.ratio == pytest.approx(2.0)


def test_a_lasting_step_is_no_burst() -> None:
    """Neither up nor down."""
    assert played([60.0] * 100 + [240.0] * 200 + [60.0] * 100).bursts == ()


def test_a_slow_climb_is_no_burst() -> None:
    """A day's curve has no bursts."""
    assert played([100.0 + second for second in range(300)]).bursts == ()


def test_a_burst_on_a_climb_is_measured_against_the_middle() -> None:
    """Level 100 before and 140 after, 240 between: twice the middle."""
    loads = [100.0] * 60 + [240.0] * 15 + [140.0] * 60
    assert played(loads).ratio == pytest.approx(2.0)


def test_noise_that_is_not_sure_is_no_burst() -> None:
    """The mean of a few seconds stands out, the lower bound does not."""
    record = Headroom()
    for second, load in enumerate(_with_burst(1.5)):
        record = record.update(at_s=1000.0 + second, mean_rps=load, low_rps=load / 1.5)
    assert record.bursts == ()


def test_bursts_are_forgotten_after_a_quarter_of_an_hour() -> None:
    """What does not come again is not paid for."""
    record = played(_with_burst(2.0) + [100.0] * 1000)
    assert record.bursts == ()
    assert record.ratio == 1.0


def test_a_burst_that_the_budget_cannot_pay_for_is_held_for() -> None:
    """2 · 5 s in at least 300 s are 3.3 % of the requests, more than 1 %."""
    assert held_rps(played(_with_burst(2.0)), at_s=AFTER_S) == pytest.approx(0.95 * 200.0)


def test_a_burst_that_the_budget_pays_for_is_left_to_it() -> None:
    """An instance that loads in a moment loses next to nothing."""
    assert held_rps(played(_with_burst(2.0)), at_s=AFTER_S, loss_s=1.0) == 0.0


def test_a_burst_that_is_carried_anyway_costs_nothing() -> None:
    """The instances for the level carry it."""
    assert held_rps(played(_with_burst(2.0)), at_s=AFTER_S, carried_rps=250.0) == 0.0


def test_the_level_of_a_climb_is_where_it_has_come_to() -> None:
    """One more each second up to 219: the median of the last minute is 189.5."""
    record = played([100.0 + second for second in range(120)])
    assert record.level_rps() == pytest.approx(189.5)
    assert 208.0 < record.climbed_rps() < 219.0  # less two errors of a Poisson load


@pytest.mark.parametrize("seconds", [5, 10, 14])
def test_a_burst_is_hardly_a_climb(seconds: int) -> None:
    """While it lasts the level is still that of the rest."""
    record = played([100.0] * 100 + [200.0] * seconds)
    assert record.climbed_rps() == pytest.approx(100.0)


def test_a_fall_is_no_climb() -> None:
    """The level is the median then, and nothing less."""
    record = played([300.0 - second for second in range(120)])
    assert record.climbed_rps() == record.level_rps()
    assert Headroom().climbed_rps() == 0.0


def test_noise_hardly_climbs() -> None:
    """Poisson counts of 150 a second, 20 minutes: never a tenth above the level."""
    rng = np.random.default_rng(7)
    record, highest = Headroom(), 0.0
    for second in range(1200):
        load = float(rng.poisson(150))
        record = record.update(at_s=1000.0 + second, mean_rps=load, low_rps=load)
        if second > 60:
            highest = max(highest, record.climbed_rps())
    assert highest < 165.0


def test_a_load_that_ends_adds_no_instance_for_bursts_before_it() -> None:
    """An early step looks like a burst once the mean falls; nothing is loaded for it."""
    told = Story(policy=a_policy(max_instances=4, quiet_s=5.0, load_s=0.5), applied=settings(1))
    told.passes(50, load_rps=300).passes(30, load_rps=900).passes(20, load_rps=300)
    before = len(told.changes)
    told.passes(90, load_rps=0)
    added = [
        d
        for d in told.changes[before:]
        if d.desired is not None and d.applied is not None
        if d.desired.instances > d.applied.instances
    ]
    assert added == []
