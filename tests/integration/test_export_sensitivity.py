"""Layers ranked by what their rounding costs, and the worst of them kept in float."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from conch.errors import ConfigError
from tests.integration.quantize_bench import CLASSES, ROWS, WIDTH, bench, static

__all__ = ["bench"]


def test_the_layer_behind_the_outlier_is_the_most_sensitive(bench):
    """The file itself passes through; each layer has a row."""
    ranked = bench.run("rank_layers")
    assert ranked.file.read_bytes() == bench.start.file.read_bytes()
    rows = ranked.facts["sensitivity"]
    assert rows[0]["node"] == "down_product"
    assert {row["node"]: row["params"] for row in rows} == {
        "down_product": 64 * CLASSES,
        "up_product": WIDTH * 64,
        "lookup": ROWS * WIDTH,
    }
    assert [row["sqnr_db"] for row in rows] == sorted(row["sqnr_db"] for row in rows)
    assert bench.told[-1] == (3, 3)


def test_most_sensitive_layers_stay_in_float(bench):
    """Which is what makes the S8 file true again."""
    ranked = bench.run("rank_layers")
    spared = bench.run(static(activations="s8", exclude_sensitive=1), artifact=ranked)
    weights = {one.name: one.data_type for one in onnx.load(spared.file).graph.initializer}
    assert weights["down"] == TensorProto.FLOAT
    assert spared.facts["kept_in_float"] == ["down_product"]
    assert bench.cosine(spared) > bench.cosine(bench.run(static(activations="s8")))


@pytest.mark.parametrize("method", ["smoothquant", "dynamic", "modelopt"])
def test_every_method_can_spare_sensitive_layers(bench, method):
    """They all take names of nodes, each in its own way."""
    needed = {"smoothquant": "nncf", "modelopt": "modelopt"}.get(method, "onnx")
    pytest.importorskip(needed)
    ranked = bench.run("rank_layers")
    spec = {"quantize": {"method": method, "exclude_sensitive": 1}}
    made = bench.run(spec, artifact=ranked)
    weights = {one.name: one.data_type for one in onnx.load(made.file).graph.initializer}
    assert weights.get("down") == TensorProto.FLOAT
    assert "up" not in weights or weights["up"] != TensorProto.FLOAT


@pytest.mark.parametrize(
    ("ranked", "count", "message"),
    [(False, 1, "nothing has ranked"), (True, 3, "less than the 3 layers")],
)
def test_excluding_without_a_table_that_long_is_refused(bench, ranked, count, message):
    """One clear error."""
    artifact = bench.run("rank_layers") if ranked else bench.start
    with pytest.raises(ConfigError, match=message):
        bench.run(static(exclude_sensitive=count), artifact=artifact)


def test_ranking_a_quantized_model_is_refused(bench):
    """Its layers are rounded already."""
    with pytest.raises(ConfigError, match="quantized already"):
        bench.run(static(), "rank_layers")


def test_excluding_a_node_that_is_not_there_is_refused(bench):
    """It would silently do nothing."""
    with pytest.raises(ConfigError, match="nonsense not among the graph's"):
        bench.run(static(exclude=["nonsense"]))
