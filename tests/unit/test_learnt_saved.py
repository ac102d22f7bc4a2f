"""What was learnt, through text and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.memory.saved import from_plain, to_plain
from control.core.service.learnt import Learnt
from control.core.service.slow_seconds import MOST, NORMAL, SlowSeconds, Z
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.evidence import SLOW, seen_at


@given(
    st.lists(
        st.tuples(
            st.integers(1, 8),
            st.integers(1, 4),
            st.dictionaries(
                st.integers(1, 64),
                st.builds(BatchStat, count=st.integers(1, 1000), busy_s=st.floats(1e-3, 100)),
                max_size=4,
            ),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_saved_comes_back_equal(
    looks: list[tuple[int, int, dict[int, BatchStat]]], with_sibling: bool
) -> None:
    """Through JSON text and back: the same value, which answers the same."""
    learnt = Learnt(sibling=SLOW if with_sibling else None)
    for instances, threads, batches in looks:
        learnt = learnt.absorb(
            ModelStatistics(batches=batches), instances=instances, threads=threads, span_s=1
        )
    again = from_plain(json.loads(json.dumps(to_plain(learnt))))
    assert again == learnt
    assert again.at(2, threads=1, cores=4) == learnt.at(2, threads=1, cores=4)


def _plain_with(**changes: object) -> dict[str, object]:
    """A saved value with something else in it."""
    return {**to_plain(seen_at(1.0)), **changes}


def _setting_with(**changes: object) -> dict[str, object]:
    """A saved value whose only setting has something else in it."""
    plain = to_plain(seen_at(1.0))
    return {**plain, "seen": [{**plain["seen"][0], **changes}]}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        "learnt",
        {},
        {"schema": 1},
        _plain_with(schema=2),
        _plain_with(seen=[{}]),
        _plain_with(seen="x"),
        _plain_with(clock_s=float("nan")),
        _plain_with(sibling={"alpha_s": 1}),
        _setting_with(instances=0),
        _setting_with(threads="1"),
        _setting_with(busy_s=-1.0),
        _setting_with(sizes={}),
        _setting_with(sizes={"4": [1.0]}),
        _setting_with(sizes={"x": [1.0, 0.1, 1.0, 0.1, 1.0]}),
        _setting_with(sizes={"4": [1.0, float("inf"), 1.0, 0.1, 1.0]}),
        _setting_with(sizes={"4": [0.0, 0.1, 1.0, 0.1, 1.0]}),
    ],
)
def test_damaged_or_unknown_data_is_nothing_learnt(damaged: object) -> None:
    """A restart with such a journal starts from nothing instead of failing."""
    assert from_plain(to_plain(seen_at(1.0))) != Learnt()
    assert from_plain(damaged) == Learnt()


def test_saved_evidence_is_older_after_a_time_away() -> None:
    """It still answers the same; what is then seen at another count finds it a day older."""
    plain = to_plain(seen_at(1.0))
    day = from_plain(plain, away_s=86400.0)
    assert day.clock_s == seen_at(1.0).clock_s + 86400.0
    assert day.at(1, threads=1, cores=None) == seen_at(1.0).at(1, threads=1, cores=None)
    assert from_plain(plain, away_s=math.nan) == Learnt()


@pytest.mark.parametrize(
    "slow",
    [
        None,
        {},
        {**to_plain(Learnt())["slow"], "deviation": "much"},
        {**to_plain(Learnt())["slow"], "weight": float("nan")},
        {**to_plain(Learnt())["slow"], "setting": [1]},
    ],
)
def test_slow_seconds_that_cannot_be_read_cost_no_service_times(slow: object) -> None:
    """They are learnt again in a minute; the curves of every count are not."""
    kept = from_plain(_plain_with(slow=slow))
    assert kept.seen == seen_at(1.0).seen
    assert kept.slow == SlowSeconds()


def test_slow_seconds_are_less_sure_after_a_time_away() -> None:
    """Another tenant, another night; and a damaged number has a limit."""
    slow = SlowSeconds(deviation=0.1, weight=1.0, span_s=0.5, level=1.2)
    uneven = replace(seen_at(1.0), slow=slow)
    at_once, later = (from_plain(to_plain(uneven), away_s=away_s).slow for away_s in (0.0, 600.0))
    assert at_once == slow
    assert later.slower < 1.0 + 0.1 * (at_once.slower - 1.0)
    assert (later.span_s, later.level) == (0.0, None)
    impossible = replace(uneven, slow=SlowSeconds(deviation=1e9, weight=1e9))
    damaged = from_plain(to_plain(impossible))
    assert damaged.slow.slower <= 1.0 + Z * NORMAL * (MOST - 1.0)
