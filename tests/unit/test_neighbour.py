"""The work of somebody else beside a run: seeded, of the share that was asked for, and over with
it."""

from __future__ import annotations

import time

import psutil
import pytest

from conch.errors import ConfigError
from perf.bench.neighbour import busy, neighbour


def test_the_seconds_are_those_of_the_seed() -> None:
    """The same again, of the share that was asked for; another seed, other seconds."""
    seconds = [busy(0.3, 7, second) for second in range(2000)]
    assert seconds == [busy(0.3, 7, second) for second in range(2000)]
    assert sum(seconds) / len(seconds) == pytest.approx(0.3, abs=0.05)
    assert seconds != [busy(0.3, 8, second) for second in range(2000)]


def test_it_works_while_it_is_asked_to_and_no_longer() -> None:
    """One process a core, which burns all of it at a share of 1."""
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    with neighbour(1.0, seed=1):
        mine = [child for child in me.children() if child.pid not in before]
        assert len(mine) == psutil.cpu_count()
        until_s = time.monotonic() + 30.0
        while sum(one.cpu_times().user for one in mine) < 0.5 and time.monotonic() < until_s:
            time.sleep(0.1)
        assert sum(one.cpu_times().user for one in mine) >= 0.5
    assert not any(one.is_running() for one in mine)
    with neighbour(0.0, seed=1):
        assert {child.pid for child in me.children()} <= before


def test_a_share_that_is_none() -> None:
    """Told before anything is started."""
    with pytest.raises(ConfigError, match="must be from 0 to 1"), neighbour(1.5, seed=1):
        pass
