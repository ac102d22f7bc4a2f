"""Which variants no other beats in everything."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from export.pareto import Point, dominated_by, dominates

BASE = Point(name="fp32", group="onnx", quality=(1.0, 0.9), size_bytes=100, latencies=(1.0, 8.0))


def like(**changes) -> Point:
    """The base point with changes."""
    return dataclasses.replace(BASE, **{"name": "other", **changes})


def test_better_in_one_and_equal_in_the_rest_dominates():
    """One figure is enough."""
    assert dominates(like(size_bytes=50), BASE)
    assert not dominates(BASE, like(size_bytes=50))


def test_a_trade_dominates_in_neither_direction():
    """Smaller, but less good."""
    small = like(size_bytes=25, quality=(0.99, 0.9))
    assert not dominates(small, BASE)
    assert not dominates(BASE, small)


def test_latencies_within_noise_are_equal():
    """Two per cent slower and four times smaller is no trade; ten per cent is."""
    assert dominates(like(size_bytes=25, latencies=(1.02, 8.1)), BASE)
    assert not dominates(like(size_bytes=25, latencies=(1.1, 8.0)), BASE)


def test_other_targets_are_not_compared():
    """A file for a GPU says nothing about one for a CPU."""
    assert not dominates(like(group="tensorrt", size_bytes=1), BASE)


def test_equal_variants_are_both_kept():
    """Neither is better in anything."""
    assert dominated_by([BASE, like()]) == {}


def test_the_dominated_one_is_named_with_its_better():
    """So that a report can say why."""
    assert dominated_by([BASE, like(size_bytes=50)]) == {"fp32": "other"}


points = st.builds(
    Point,
    name=st.uuids().map(str),
    group=st.just("onnx"),
    quality=st.tuples(st.sampled_from([0.9, 0.95, 1.0])),
    size_bytes=st.integers(1, 4),
    latencies=st.tuples(st.sampled_from([1.0, 2.0, 4.0])),
)


@given(st.lists(points, min_size=1, max_size=8))
def test_something_is_always_left(some):
    """Domination never empties the front."""
    assert len(dominated_by(some)) < len(some)
