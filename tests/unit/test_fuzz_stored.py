"""A few hundred mutations of all that is stored and read: no raw exception comes out.

``python -m tests.fuzz --count 20000`` makes many more.
"""

from __future__ import annotations

import pytest

from tests import fuzz

SLOW = ("journal bytes", "journal rows", "learnt", "revisions")


@pytest.mark.parametrize("target", sorted(fuzz.TARGETS))
def test_what_is_read_is_refused_in_our_words_or_understood(target: str) -> None:
    """Whatever a disk, a person or another program made of it."""
    _, kinds = fuzz.tried(target, count=60 if target in SLOW else 200)
    assert kinds == {}


def test_the_fuzzer_finds_what_is_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says by which seed it comes again."""

    def breaks(draw: object) -> bool:
        raise KeyError("x")

    monkeypatch.setitem(fuzz.TARGETS, "breaks", breaks)
    assert fuzz.tried("breaks", count=3, first_seed=7) == (0, {"KeyError: 'x'": (3, 7)})
