"""How instances slow each other down: ℓ(b, c), and how far it is trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.service.interference import Interference, Level, fitted
from control.core.service.learnt import NO_LIMIT, Learnt, relative_time
from tests.unit.evidence import executed, seen_at
from tests.unit.story import TRUE


def test_learnt_sees_that_instances_do_not_interfere() -> None:
    """One and two took the same on an accelerator: eight are predicted to as well."""
    learnt = seen_at(1.0, 1.0)
    eight = learnt.at(8, threads=1, cores=None)
    assert eight is not None
    assert eight.of(8) == pytest.approx(TRUE.of(8), rel=0.02)
    assert learnt.trusted_up_to(1, None) == NO_LIMIT


def test_learnt_sees_how_much_instances_interfere() -> None:
    """Two took half as long again as one: eight are predicted to take 4.5 times as long."""
    learnt = seen_at(1.0, 1.5)
    two, eight = learnt.at(2, threads=1, cores=None), learnt.at(8, threads=1, cores=None)
    assert two is not None
    assert eight is not None
    assert two.of(8) == pytest.approx(1.5 * TRUE.of(8), rel=0.05)
    assert eight.of(8) == pytest.approx(4.5 * TRUE.of(8), rel=0.1)
    assert learnt.trusted_up_to(1, None) == 3


def test_learnt_keeps_what_a_count_showed_beyond_the_law() -> None:
    """Free up to two, then a cliff: no law fits, but each count that was seen is known."""
    learnt = seen_at(1.0, 1.0, 1.6)
    for count, level in ((1, 1.0), (2, 1.0), (3, 1.6)):
        curve = learnt.at(count, threads=1, cores=None)
        assert curve is not None
        assert curve.of(8) == pytest.approx(level * TRUE.of(8), rel=0.06)


def test_learnt_scales_a_count_that_was_seen_idle() -> None:
    """Two instances on one core, seen busy for a tenth of the time: when both are, they share."""
    learnt = Learnt()
    for _ in range(10):
        learnt = learnt.absorb(executed(b1=40), instances=2, threads=1, span_s=1)
    curve = learnt.at(2, threads=1, cores=1)
    assert curve is not None
    assert curve.of(1) == pytest.approx(2.0 / 1.1 * TRUE.of(1), rel=0.02)


def test_learnt_believes_the_cores_until_it_sees_otherwise() -> None:
    """2 cores: 4 are to share them; but three that were as fast as one show that they only wait."""
    on_cores, waiting = seen_at(1.0, 1.0, 1.5), seen_at(1.0, 1.0, 1.0)
    crowded, free = on_cores.at(4, threads=1, cores=2), waiting.at(4, threads=1, cores=2)
    assert crowded is not None
    assert free is not None
    assert crowded.of(8) == pytest.approx(2 * TRUE.of(8), rel=0.05)
    assert free.of(8) == pytest.approx(TRUE.of(8), rel=0.05)
    assert on_cores.trusted_up_to(1, 2) == 4
    assert waiting.trusted_up_to(1, 2) == NO_LIMIT


def test_trusted_up_to_is_one_more_than_was_seen() -> None:
    """The first step is a probe; on a CPU there is more where cores are free."""
    assert Learnt().trusted_up_to(1, None) == 1
    assert Learnt().trusted_up_to(2, 8) == 4
    one = seen_at(1.0)
    assert one.trusted_up_to(1, None) == 2
    assert one.trusted_up_to(1, 1) == 2
    assert one.trusted_up_to(1, 6) == 6
    assert seen_at(1.0, 1.0).trusted_up_to(1, 2) == 3  # within the cores nothing can be told
    assert seen_at(1.0, 1.0).trusted_up_to(1, 8) == 8
    assert seen_at(1.0, 1.2).trusted_up_to(1, 4) == 4


def test_counts_that_were_idle_tell_nothing_of_interference() -> None:
    """Two instances that were hardly ever busy together are no comparison with one."""
    learnt = Learnt()
    for count in (1, 2):
        for _ in range(10):
            learnt = learnt.absorb(executed(b1=4), instances=count, threads=1, span_s=1)
    assert learnt.visited(1) == (1, 2)
    assert learnt.trusted_up_to(1, None) == 3


def test_visited_needs_more_than_a_batch_or_two() -> None:
    """A count that was in force without work, or nearly, was not seen."""
    learnt = Learnt().absorb(executed(b1=2), instances=4, threads=1, span_s=1)
    assert learnt.visited(1) == ()
    learnt = learnt.absorb(executed(b1=2), instances=4, threads=1, span_s=1)
    assert learnt.visited(1) == (4,)
    assert learnt.visited(2) == ()


@given(
    st.lists(
        st.builds(
            Level,
            st.floats(1, 16),
            st.floats(1, 8),
            st.floats(0.1, 10),
            st.floats(0.01, 1),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_interference_stays_within_its_law(levels: list[Level]) -> None:
    """Whatever the levels: 0 ≤ φ ≤ 1, 0 ≤ κ ≤ 1, and more instances are never faster each."""
    law = fitted(levels)
    assert 0.0 <= law.phi <= 1.0
    assert 0.0 <= law.kappa <= 1.0
    assert law.factor(1, share=1.0) == 1.0
    assert law.factor(4, share=2.0) <= law.factor(5, share=2.5)


def test_interference_is_none_until_counts_differ() -> None:
    """A difference of 3% between 1 and 1.05 busy instances is noise."""
    law = fitted([Level(1.0, 1.0, 1.0, 1.0), Level(1.05, 1.0, 1.03, 1.0)])
    assert law.phi < 0.1
    assert Interference().factor(8, share=1.0) == 1.0


def test_relative_time_is_one_for_one_thread_on_free_cores() -> None:
    """And threads beyond the cores make everything slower; an accelerator has no cores to share."""
    assert relative_time(2, threads=1, cores=4) == 1.0
    assert relative_time(1, threads=2, cores=4) < 1.0
    assert relative_time(8, threads=1, cores=4) == 2.0
    assert relative_time(8, threads=1, cores=None) == 1.0
