"""Which variants are worth publishing: those that no other beats in everything. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 0.03
"""Latencies closer than this fraction count as equal: that is their noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant.

    Attributes:
        name: of the variant.
        group: only variants of one group, e.g. of one target, are compared.
        quality: figures of which more is better: fidelity, task metric.
        size_bytes: of its files.
        latencies: figures of which less is better, the same batch sizes for all.
    """

    name: str
    group: str
    quality: tuple[float, ...]
    size_bytes: int
    latencies: tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is at least as good in everything and better in something.

    Equal in all (latencies within ``TOLERANCE``) is no domination.

    Example:
        >>> small = Point(name="a", group="", quality=(1.0,), size_bytes=1, latencies=(1.0,))
        >>> large = Point(name="b", group="", quality=(1.0,), size_bytes=2, latencies=(1.0,))
        >>> dominates(small, large), dominates(large, small)
        (True, False)
    """
    if one.group != other.group or len(one.quality) != len(other.quality):
        return False
    pairs = list(zip(one.latencies, other.latencies, strict=True))
    as_good = (
        all(a >= b for a, b in zip(one.quality, other.quality, strict=True))
        and one.size_bytes <= other.size_bytes
        and all(a <= b * (1 + TOLERANCE) for a, b in pairs)
    )
    better = (
        any(a > b for a, b in zip(one.quality, other.quality, strict=True))
        or one.size_bytes < other.size_bytes
        or any(a < b * (1 - TOLERANCE) for a, b in pairs)
    )
    return as_good and better


def dominated_by(points: Sequence[Point]) -> Mapping[str, str]:
    """Name of each dominated variant → a variant of the front that dominates it."""
    front = [p for p in points if not any(dominates(other, p) for other in points)]
    found = {}
    for point in points:
        if point not in front:
            stronger = [other.name for other in front if dominates(other, point)]
            # with tolerances, domination need not lead to the front in one step
            found[point.name] = (stronger or [o.name for o in points if dominates(o, point)])[0]
    return found
