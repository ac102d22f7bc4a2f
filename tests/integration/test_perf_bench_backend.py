"""The backend's benchmark on a real Triton: equal work on both sides, and the ratio is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from cli.perf_bench import bench
from conch.errors import ConfigError, ThresholdMissed
from perf.bench.backend import bench_backend
from tests.integration.onnx_models import Port, publish

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix product, large enough to take some milliseconds."""
    root = tmp_path_factory.mktemp("repository")
    publish(
        root,
        "product",
        inputs=[Port(name="x", dims=(-1, 512))],
        outputs=[Port(name="y", dims=(-1, 512))],
        nodes=[helper.make_node("MatMul", ["x", "w"], ["y"])],
        constants={"w": np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)},
    )
    return root


def test_bench_compares_equal_work(repository: Path) -> None:
    """The outputs agree, and the ratio is that of the rates."""
    told: list[int] = []
    result = bench_backend(
        repository / "product" / "1" / "model.onnx",
        batch_size=4,
        tokens=16,
        rounds=1,
        window_s=0.4,
        on_round=lambda number, ratio: told.append(number),
    )
    assert result.difference_max < 1e-3
    assert told == [1]
    assert result.bare_rps > 0
    assert result.ratio == pytest.approx(result.triton_rps / result.bare_rps)


def test_bench_command_gives_json_and_fails_below_the_threshold(repository: Path) -> None:
    """One JSON object on stdout; a ratio nobody reaches is a missed threshold."""
    command = ["backend", "product", "--repository", str(repository), "--rounds", "1"]
    settings = ["--window", "300ms", "--tokens", "4", "--fail-below", "100", "--json"]
    result = CliRunner().invoke(bench, [*command, *settings])
    assert isinstance(result.exception, ThresholdMissed)
    assert json.loads(result.stdout)["batch_size"] == 8


def test_bench_refuses_a_model_that_is_not_there(repository: Path) -> None:
    """Neither a file nor a model of the repository."""
    result = CliRunner().invoke(bench, ["backend", "nothing", "--repository", str(repository)])
    assert isinstance(result.exception, ConfigError)
