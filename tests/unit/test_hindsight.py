"""Releases against the best in hindsight: the prices, the dynamic program, and Conch's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import root as cli
from conch.errors import ConfigError
from control.core.decision import instances
from control.core.need import hold
from perf.bench.control.hindsight import best, play
from perf.bench.control.hindsight.best import Prices, hindsight
from perf.bench.control.hindsight.play import Case

ONE_A_LOOK = Prices(idle_cost=3600.0, again={1: 3.0, 2: 5.0, 3: 7.0})
"""An idle instance costs one late request in a look of 1 s."""
HELD_FOR_S = hold.held_for_s


def _by_trying(must: Sequence[int], first: int) -> float:
    """The least cost over all counts that there are."""
    costs = []
    for counts in itertools.product(range(4), repeat=len(must)):
        befores = (first, *counts)
        pairs = list(zip(befores, counts, must, strict=False))
        if all(n <= c and (c <= before or c == n) for before, c, n in pairs):
            loading = sum(ONE_A_LOOK.again[c] for before, c, _ in pairs if c > before)
            costs.append(loading + sum(c - n for _, c, n in pairs))
    return min(costs)


def test_best_is_the_least_over_all_release_times() -> None:
    """Short series by chance, against every series of counts that may be."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        must = rng.integers(0, 4, 6).tolist()
        first = int(rng.integers(must[0], 4))
        had = [max(first, *must)] * 6
        if had[0] != first:
            continue
        found = hindsight(had, must, ONE_A_LOOK, tick_s=1.0)
        assert found.best == pytest.approx(_by_trying(must, first))
        assert found.idle == sum(had) - sum(must)


def test_an_idle_instance_is_best_given_back_where_loading_it_is_cheaper() -> None:
    """Loading the second costs five: worth it for a gap of six looks, not of four."""
    for gap, least in ((4, 4.0), (6, 5.0)):
        needed = [2, *[1] * gap, 2]
        assert hindsight([2] * len(needed), needed, ONE_A_LOOK, tick_s=1.0).best == least


def test_what_the_rule_added_the_best_has_added_too() -> None:
    """The same acquisition, needed or not; and what the rule had not, nobody must have."""
    found = hindsight([1, 3, 3, 1], [1, 1, 1, 3], ONE_A_LOOK, tick_s=1.0)
    assert (found.loading, found.idle, found.releases) == (7.0, 2.0, 1)
    assert found.best == 7.0
    assert found.ratio == pytest.approx(9 / 7)


def test_ratio_of_a_rule_that_spent_nothing_is_one() -> None:
    """Not a division by zero; nor where only the best was free."""
    assert hindsight([1, 1], [1, 1], ONE_A_LOOK, tick_s=1.0).ratio == 1.0
    assert hindsight([2, 2], [1, 1], ONE_A_LOOK, tick_s=1.0).ratio == np.inf


def test_price_of_loading_again_is_what_comes_meanwhile() -> None:
    """100 a second for 3 s of loading and 2 s to see and to drain it."""
    assert best.prices({2: 100.0}, idle_cost=1.0, load_s=3.0).again == {2: 500.0}


LOADS = ("step", "heavy-tails", "on-off", "sawtooth")
DEAR = 60_000.0


@cache
def _worst(factor: float) -> float:
    """The greatest ratio, where instances are held this many times as long."""

    def held_for_s(policy: object, carried_rps: float, *, load_s: float) -> float:
        return factor * HELD_FOR_S(policy, carried_rps, load_s=load_s)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        for module in (hold, instances):
            patch.setattr(module, "held_for_s", held_for_s)
        return max(
            play.play(Case(load=load, seed=1, idle_cost=DEAR, duration_s=300.0)).found.ratio
            for load in LOADS
        )


def test_releases_cost_at_most_twice_the_best_in_hindsight() -> None:
    """On known loads and untuned ones, where an instance is dear."""
    assert _worst(1.0) <= 2.0


@pytest.mark.parametrize("factor", [8.0, 1 / 8])
def test_releases_at_another_time_cost_more_than_twice_the_best(factor: float) -> None:
    """Held eight times as long, or an eighth: the time is not just any."""
    assert _worst(factor) > 2.0


def test_command_tells_the_worst_and_refuses_a_load_that_it_does_not_know() -> None:
    """As a table with its last line."""
    runner = CliRunner()
    result = runner.invoke(cli, ["perf", "bench", "hindsight", "--load", "nothing"])
    assert isinstance(result.exception, ConfigError)
    assert "must be one of" in result.exception.message
