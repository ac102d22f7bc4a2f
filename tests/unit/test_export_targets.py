"""What a Triton release takes: the table, and the check of a file against it."""

from __future__ import annotations

import importlib.metadata
import itertools

import pytest

from conch.errors import ConfigError
from export import targets


def test_releases_are_complete_and_newest_first():
    """Every month from 24.04 to 26.10, and the bundled server."""
    *months, local = targets.releases()
    expected = [f"{y}.{m:02}" for y in (24, 25, 26) for m in range(1, 13)]
    expected = [name for name in expected if "24.04" <= name <= "26.10"]
    assert months == sorted(expected, reverse=True)
    assert local == targets.LOCAL


def test_limits_never_fall_with_newer_releases():
    """A typing error in the table would make a newer release take less."""
    rows = [targets.target(name) for name in reversed(targets.releases()[:-1])]
    for older, newer in itertools.pairwise(rows):
        assert newer.max_opset >= older.max_opset
        assert newer.max_ir >= older.max_ir
        assert [int(n) for n in newer.onnxruntime.split(".")] >= [
            int(n) for n in older.onnxruntime.split(".")
        ]


def test_local_target_has_the_runtime_of_this_environment():
    """The bundled server's backend runs in this environment, and it has no TensorRT."""
    local = targets.target(targets.LOCAL)
    assert local.onnxruntime == importlib.metadata.version("onnxruntime")
    assert local.tensorrt == ""


def test_guesses_are_marked():
    """What no source states is never shown as if one did."""
    assert not targets.target("26.08").inferred
    assert targets.target("26.10").inferred
    assert targets.target("26.10").tensorrt_inferred
    assert not targets.target("26.07").tensorrt_inferred


@pytest.mark.parametrize(
    ("release", "opset", "ir", "problem"),
    [
        ("26.10", {"": 20}, 10, ""),
        ("24.04", {"ai.onnx": 20}, 9, ""),
        ("24.04", {"ai.onnx": 20}, 10, "IR version 10"),
        ("24.04", {"": 21}, 9, "opset 21"),
        ("25.10", {"": 24}, 10, "opset 24"),
        ("26.06", {"": 20, "com.microsoft": 99}, 10, ""),
    ],
)
def test_check_names_what_is_too_new(release, opset, ir, problem):
    """Only the default domain counts, and the message names value, server and limit."""
    found = targets.check(opset, ir, targets.target(release))
    assert found.startswith(problem)
    assert bool(found) == bool(problem)
    if problem:
        assert f"Triton {release}" in found
        assert "at most" in found


def test_unknown_release_is_refused_with_what_is_known():
    """A release that is not in the table is no reason to guess."""
    with pytest.raises(ConfigError, match=r"'27\.01', must be local or a release from 24\.04"):
        targets.target("27.01")
