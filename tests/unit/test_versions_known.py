"""What is known of the versions of a model that are not in force."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.need.better_version import CHEAPER
from control.core.service.learnt import Learnt
from control.core.service.versions import GUESS, Versions, learnt_of, served
from control.core.types import Observation
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.evidence import after, executed
from tests.unit.story import TRUE, a_policy, settings

HALF = TRUE.scaled(0.5)
BATCHING = settings(batch=8)


def test_a_version_never_seen_is_guessed_from_the_present_one() -> None:
    """By the same share for each step, up as well as down; nothing is guessed from nothing."""
    policy = a_policy(versions=(5, 3, 4))
    stat = BatchStat(count=100, busy_s=100 * TRUE.of(8))
    executed = ModelStatistics(batches={8: stat})
    learnt = Learnt().absorb(executed, instances=1, threads=1, span_s=5.0)

    def of_8(wanted: int) -> float:
        found = learnt_of(Versions(), learnt, 3, wanted, policy, threads=1)
        curve = found.at(1, threads=1, cores=policy.cores)
        assert curve is not None
        return curve.of(8)

    assert of_8(3) == pytest.approx(TRUE.of(8))
    assert of_8(4) == pytest.approx(GUESS * of_8(3))
    assert of_8(5) == pytest.approx(of_8(3) / GUESS)
    assert learnt_of(Versions(), Learnt(), 3, 4, policy, threads=1) == Learnt()
    assert GUESS < CHEAPER


def test_the_served_version_is_the_pinned_or_the_highest() -> None:
    """Unversioned requests go to the highest version; without versions on disk it is not known."""
    look = Observation(at_s=1.0, tick_id="t", counters=None, statistics=None, applied=BATCHING)
    assert served(look) is None
    assert served(replace(look, versions=(1, 3))) == 3
    assert served(replace(look, versions=(1, 3), applied=replace(BATCHING, version=1))) == 1


def test_all_versions_are_on_the_device_that_got_slower() -> None:
    """What was learnt of the better one in faster seconds does not bring it back."""
    better = after(60, lambda: executed(b1=30, b4=30))
    cheap = after(60, lambda: executed(HALF, b1=30, b4=30))
    slow = after(6, lambda: executed(HALF, 2.0, b4=60), cheap)
    memory = Versions(others={1: better}, of=2).on_device(slow.times)
    known = memory.others[1].at(1, threads=1, cores=1)
    assert known is not None
    assert known.of(4) == pytest.approx(2.0 * TRUE.of(4), rel=0.05)
    assert memory.on_device(slow.times) is memory
