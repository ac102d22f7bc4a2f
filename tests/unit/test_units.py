"""Sizes on the command line."""

import click
import pytest

from cli.serve import serve
from conch.units import SIZE


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64MiB", 64 * 2**20), ("1.5 GB", 1_500_000_000), ("0", 0), ("512", 512)],
)
def test_sizes_are_bytes(text, expected):
    """With a unit or without."""
    assert SIZE.convert(text, None, None) == expected


def test_a_size_that_is_none_is_a_usage_error():
    """`conch serve --cache lots`."""
    with pytest.raises(click.BadParameter, match="'lots' is not a size"):
        serve.make_context("serve", ["--cache", "lots"])
