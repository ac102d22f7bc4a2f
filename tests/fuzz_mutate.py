"""Mutations of bytes and of JSON values, drawn from a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

BYTES = (
    *(b"\xff", b"\xfe", b"\x00", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n"),
    *(b"\x1b[31m", b"{", b"}", b"[", b"]", b'"', b"\\", b"NaN", b"Infinity", b"-", b"9" * 30),
    *(b"9" * 5000, b"1e999", b"{" * 2000, b"[" * 2000, b"\xe2\x80\xa8", b":", b",", b" ", b"#"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "NaN", "1", "²", "\x1b[2J", "\x00"),
    *("\ud800", "a" * 5000, [], {}, [[]], [1, 2], [[1, 2]], {"a": 1}, {"1": [1, 2.0]}, {"": None}),
)


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: a byte, a piece put in, taken out, doubled, cut off or zeroed."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 4, 16, 300)))
        kind = draw.randrange(8)
        if kind <= 1 and at < len(data):
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        elif kind <= 3:
            data = data[:at] + draw.choice(BYTES) + data[at:]
        elif kind == 4:
            data = data[:at] + data[to:]
        elif kind == 5:
            data = data[:to] + data[at:to] * draw.randint(1, 3) + data[to:]
        elif kind == 6:
            data = data[:at] + bytes(to - at) + data[to:]
        elif draw.random() < 0.3:
            data = data[:at]
    return data


def of_value(value: Any, draw: random.Random) -> Any:
    """One to three changes of a JSON value: a place is odd, gone, twice, or holds another's."""
    made = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 3))):
        places = list(_places(made))
        if not places or draw.random() < 0.02:
            made = copy.deepcopy(draw.choice(VALUES))
            continue
        holder, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind <= 2:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif kind == 3:
            del holder[key]
        elif kind == 4:
            other, at = draw.choice(places)
            holder[key] = copy.deepcopy(other[at])
        elif isinstance(holder, dict):
            holder[draw.choice(("x", "", "model", *map(str, holder)))] = draw.choice(VALUES)
        else:
            holder.insert(key, copy.deepcopy(holder[key]))
    return made


def deep(depth: int) -> Any:
    """A value that deep."""
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in it, as its holder and its key."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)
