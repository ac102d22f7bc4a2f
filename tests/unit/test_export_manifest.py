"""The manifest of a partial run keeps what a whole one found."""

from __future__ import annotations

import pytest

from export.manifest import merged

RECORD = {"recipe_sha256": "a", "variants": {"int8": {"key": "new"}}}


def test_other_variants_of_the_same_recipe_are_kept():
    """``--only int8`` after a run of everything."""
    earlier = {"recipe_sha256": "a", "variants": {"fp32": {"key": "1"}, "int8": {"key": "old"}}}
    assert merged(earlier, RECORD)["variants"] == {"fp32": {"key": "1"}, "int8": {"key": "new"}}


@pytest.mark.parametrize(
    "earlier", [None, [], {}, {"recipe_sha256": "b", "variants": {"fp32": {}}}, {"variants": 7}]
)
def test_what_is_of_another_recipe_or_broken_is_not(earlier):
    """Its files belong to something else."""
    assert merged(earlier, RECORD) == RECORD
