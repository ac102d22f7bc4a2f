"""Synthetic inputs: what can be made of a config, and what of no config."""

from __future__ import annotations

import pytest

from serving import probe
from serving.client import InferenceFailed
from serving.model_config import parse


class Nobody:
    """A client that must not be asked."""

    def infer(self, *_: object, **__: object) -> None:
        """See above."""
        raise AssertionError("asked")


@pytest.mark.parametrize(
    "dims",
    [
        [10**10],
        [2**63 - 1, 2**63 - 1],
        [1] * 100,
        [46341, 46341],
    ],
)
def test_inputs_that_cannot_be_made_fail_the_model_and_nobody_else(dims: list[int]) -> None:
    """40 GB of ones would end the process; an array has 64 axes at most."""
    config = parse(f'name: "m" input {{ name: "x" data_type: TYPE_FP32 dims: {dims} }}')
    with pytest.raises(InferenceFailed, match="cannot be made"):
        probe.probe(Nobody(), config)  # type: ignore[arg-type]


def test_the_bytes_of_a_row() -> None:
    """Of all inputs; -1 is made 1."""
    config = parse(
        'max_batch_size: 8 input { name: "x" data_type: TYPE_FP16 dims: [3, -1] }'
        ' input { name: "s" data_type: TYPE_STRING dims: [2] }'
    )
    assert probe.row_bytes(config) == 2 * 3 + 8 * 2
