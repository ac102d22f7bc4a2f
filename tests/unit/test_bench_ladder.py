"""The simulated bench of the ladder: what is held, what is answered, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from cli.perf_bench import bench
from conch.errors import ConfigError
from perf.bench.ladder.contenders import CONTENDERS, lru, static_top
from perf.bench.ladder.loads import BEST, CHEAP, Load
from perf.bench.ladder.run import play
from perf.bench.ladder.server import answers

LOAD = Load(models=4, room=3, phase_s=100.0, phases=4, hottest_rps=10.0)
"""Three at their best, or one beside three at their cheapest."""


def test_room_is_for_so_many_at_their_best_beside_the_cheap_others() -> None:
    """And for all at their cheapest, or it is refused."""
    assert (LOAD.best_at_once, Load(room=8).best_at_once, Load(room=10).best_at_once) == (1, 0, 6)
    with pytest.raises(ConfigError, match="must hold all 12"):
        Load(room=7)


def test_popularity_moves_between_phases_and_is_the_seed_s() -> None:
    """The same rates in another order."""
    first, second = LOAD.rates_rps(0), LOAD.rates_rps(1)
    assert first != second
    assert sorted(first) == sorted(second) == sorted([10.0, 5.0, 10.0 / 3, 2.5])
    assert first == LOAD.rates_rps(0)


def test_requests_wait_while_nothing_is_loaded() -> None:
    """At 1 s nothing, from 2 s on the cheap version: the first is at its best, the second late."""
    met = answers(LOAD, np.array([0.5, 1.5, 2.5]), [(0.0, BEST), (1.0, None), (2.0, CHEAP)])
    assert met.in_time.tolist() == [True, False, True]
    assert met.at_best.tolist() == [True, False, False]
    gone = answers(LOAD, np.array([0.5, 1.5]), [(0.0, BEST), (1.0, None)])
    assert gone.in_time.tolist() == [True, False]


def test_lru_evicts_who_was_asked_least_recently() -> None:
    """Models 0, 1 and 2 are there; 3 is asked at 4 s, and 1 has waited longest."""
    times = [np.array([3.0, 20.0]), np.array([1.0]), np.array([2.0]), np.array([4.0])]
    held = lru(LOAD, times)
    assert held.periods[1] == [(0.0, BEST), (4.0, None)]
    assert held.periods[3] == [(0.0, None), (9.0, BEST)]
    assert (len(held.periods[0]), len(held.periods[2]), held.changes) == (1, 1, 1)


def test_the_static_top_is_those_asked_most() -> None:
    """The fourth is not there at all."""
    times = [np.arange(n) * 1.0 for n in (5, 2, 9, 7)]
    held = static_top(LOAD, times)
    assert [periods[0][1] for periods in held.periods] == [BEST, None, BEST, BEST]


def test_conch_starves_nobody_keeps_the_memory_and_follows_long_phases() -> None:
    """More at their best than any fixed set has, and no more than can be had."""
    runs = {name: play(name, LOAD) for name in CONTENDERS}
    assert runs["conch"].least_attainment > 0.99
    assert 0.9 < runs["conch"].most_fraction <= 1.0
    assert runs["static-mixed"].at_best + 0.05 < runs["conch"].at_best < runs["ideal"].at_best
    assert runs["static-top"].least_attainment == 0.0
    assert runs["static-cheap"].at_best == 0.0


def test_the_table_fits_a_terminal_and_json_has_every_run() -> None:
    """One line for each contender, one run for each seed."""
    options = ["ladder", "--models", "4", "--room", "3", "--phase", "30s", "--phases", "2"]
    table = CliRunner().invoke(bench, [*options, "--contenders", "conch,lru"])
    assert table.exit_code == 0, table.output
    lines = table.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[-2:]] == ["conch", "lru"]
    made = CliRunner().invoke(bench, [*options, "--contenders", "static-cheap", "--json"])
    told = json.loads(made.output)
    assert [run["seed"] for run in told["runs"]] == [1, 2]
    bad = CliRunner().invoke(bench, [*options, "--contenders", "lfu"])
    assert isinstance(bad.exception, ConfigError)
    assert "lfu" in bad.exception.message
