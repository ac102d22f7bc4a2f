"""How a scale up is made: by hand, on cores that are shared, and on devices that are not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.need.second_copy import ScaleUp

# 1 instance of 330/s becomes 2 on 2 cores; both copies at a time get no more than 660/s there.
CORES = ScaleUp(
    rate_rps=440.0,
    excess=14.0,
    before_rps=330.0,
    after_rps=660.0,
    both_rps=660.0,
    share=2 / 3,
    load_s=0.5,
    reload_s=0.5,
    slo_s=0.15,
)
DEVICE = ScaleUp(  # 3 more of 80/s, nothing shared, 3 s to load
    rate_rps=240.0,
    excess=60.0,
    before_rps=80.0,
    after_rps=320.0,
    both_rps=400.0,
    share=4 / 5,
    load_s=3.0,
    reload_s=3.0,
    slo_s=0.4,
)


def test_times_by_hand() -> None:
    """In place: (60 + 160·3 - 320·0.2) / 80 beyond the loading. By a copy: the loading."""
    assert DEVICE.late_in_place_s() == pytest.approx(3.0 + (60 + 480 - 64) / 80)
    assert DEVICE.slowdown == pytest.approx(1.0)
    assert DEVICE.late_by_copy_s() == pytest.approx(3.0)
    assert CORES.slowdown == pytest.approx(1.5)
    assert CORES.late_in_place_s() == pytest.approx(0.5 + (14 + 55 - 49.5) / 220)
    assert CORES.late_by_copy_s() == pytest.approx(0.75)  # 2/3 of 660/s are just the load


def test_a_second_copy_where_nothing_is_shared_and_in_place_where_the_cores_are() -> None:
    """As both were measured on a real Triton."""
    assert DEVICE.by_copy()
    assert not CORES.by_copy()


def test_in_place_where_what_waits_is_gone_when_the_instance_is_loaded() -> None:
    """60 + 30·3 requests wait, half the SLO of the new count: no reason for a copy."""
    slow = replace(DEVICE, rate_rps=80.0, excess=60.0)
    assert slow.late_in_place_s() == slow.load_s
    assert not slow.by_copy()


def test_a_copy_where_the_backlog_is_never_drained() -> None:
    """The call in place would not return, and no other change could begin."""
    assert replace(CORES, rate_rps=700.0).by_copy()
    assert replace(CORES, rate_rps=700.0).late_in_place_s() == math.inf


@given(
    rate=st.floats(0.0, 5000.0),
    excess=st.floats(0.0, 1e5),
    before=st.integers(1, 16),
    added=st.integers(1, 16),
    each=st.floats(0.0, 1000.0),
    shared=st.floats(0.1, 1.0),
)
def test_both_times_are_at_least_the_loading(
    rate: float, excess: float, before: int, added: int, each: float, shared: float
) -> None:
    """Whatever the numbers; never a division by zero or a NaN."""
    after = before + added
    change = ScaleUp(
        rate_rps=rate,
        excess=excess,
        before_rps=before * each,
        after_rps=after * each,
        both_rps=(before + after) * each * shared,
        share=after / (before + after),
        load_s=1.0,
        reload_s=1.5,
        slo_s=0.1,
    )
    assert change.late_in_place_s() >= 1.0
    assert change.late_by_copy_s() >= 1.5
    assert change.by_copy() in (True, False)
