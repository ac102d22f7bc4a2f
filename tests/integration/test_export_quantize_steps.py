"""Quantization step by step on a small network, by the real tools, and its two encodings."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conch.errors import ConfigError, ParityError
from export.steps import Artifact, Form
from export.steps.quantize.smoothquant import make_signed
from tests.integration.quantize_bench import (
    CLASSES,
    ROWS,
    SMOOTH,
    Bench,
    bench,
    network,
    static,
    zero_points,
)

__all__ = ["bench"]


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_static_quantization_takes_ranges_in_three_ways(bench, calibration):
    """Each gives a true model, and says how it was made; earlier facts stay."""
    made = bench.run(static(calibration=calibration))
    assert bench.cosine(made) > 0.9
    assert made.facts["opset"] == 20
    assert made.facts["calibration"] == calibration
    assert made.facts["calibration_samples"] == 32


def test_bias_is_quantized_only_when_asked_for_with_s8(tmp_path):
    """TensorRT refuses int32; ONNX Runtime's default has it."""
    bench = Bench(tmp_path)
    proto = network()
    product = next(node for node in proto.graph.node if node.name == "down_product")
    product.input[1] = "down"
    bias = numpy_helper.from_array(np.ones((64, CLASSES)[1], np.float32), "bias")
    proto.graph.initializer.append(bias)
    flat = helper.make_node("Gemm", ["scores_before", "square", "bias"], ["scores"], name="gemm")
    proto.graph.initializer.append(
        numpy_helper.from_array(np.eye(CLASSES, dtype=np.float32), "square")
    )
    next(node for node in proto.graph.node if node.name == "mean").output[0] = "scores_before"
    proto.graph.node.append(flat)
    onnx.save(proto, bench.start.file)

    def kinds(**options) -> set[int]:
        made = bench.run({"quantize": {"method": "static_qdq", "op_types": ["Gemm"], **options}})
        return {one.data_type for one in onnx.load(made.file).graph.initializer}

    assert TensorProto.INT32 in kinds(activations="u8")
    assert TensorProto.INT32 not in kinds(activations="s8")
    assert TensorProto.INT32 in kinds(activations="s8", quantize_bias=True)
    assert TensorProto.INT32 not in kinds(activations="u8", quantize_bias=False)


def test_smoothquant_copes_with_an_outlier_that_minmax_does_not(bench):
    """S8 with zero points 0, so TensorRT takes it; truer than without smoothing."""
    pytest.importorskip("nncf", reason="pip install 'conch-serving[smooth]'")
    smooth = bench.run(SMOOTH)
    assert zero_points(smooth, "QuantizeLinear") == {("int8", 0)}
    assert bench.cosine(smooth) > bench.cosine(bench.run(static(activations="s8")))


def test_unsigned_activations_become_signed_over_the_same_range(bench):
    """What NNCF makes of a ReLU is not for TensorRT; the scale grows by 255/127."""
    pytest.importorskip("nncf", reason="pip install 'conch-serving[smooth]'")
    unsigned = bench.run({"quantize": {"method": "smoothquant", "signed": False}})
    proto = onnx.load(unsigned.file)
    if not any(kind == "uint8" for kind, _ in zero_points(unsigned, "QuantizeLinear")):
        pytest.fail(f"no unsigned activations: {zero_points(unsigned, 'QuantizeLinear')}")
    assert make_signed(proto) > 0
    onnx.save(proto, bench.folder / "signed.onnx")
    signed = Artifact(form=Form.ONNX, path=bench.folder / "signed.onnx")
    assert zero_points(signed, "QuantizeLinear") == {("int8", 0)}
    assert bench.cosine(signed) > 0.97


def test_slim_gives_the_same_outputs(bench):
    """It cleans up, nothing else."""
    made = bench.run("slim")
    assert bench.cosine(made) == pytest.approx(1.0)
    assert made.facts["slim"]["nodes_after"] <= made.facts["slim"]["nodes_before"]


@pytest.mark.parametrize(
    "steps",
    [[static(activations="s8"), "reencode"], [SMOOTH, "reencode"], ["slim"]],
    ids=["static", "smoothquant", "slim"],
)
def test_equal_inputs_give_equal_bytes(bench, steps):
    """The cache and the manifest rest on hashes."""
    if SMOOTH in steps:
        pytest.importorskip("nncf", reason="pip install 'conch-serving[smooth]'")
    first, second = (
        hashlib.sha256(bench.run(*steps).file.read_bytes()).hexdigest() for _ in range(2)
    )
    assert first == second


def test_reencoded_file_rounds_to_the_same_values(bench):
    """Codes shift by 128 and so does the zero point: the same numbers come out."""
    signed = bench.run(static(activations="s8"))
    shifted = bench.run("reencode", artifact=signed)
    assert zero_points(signed, "QuantizeLinear") == {("int8", 0)}
    assert zero_points(shifted, "QuantizeLinear") == {("uint8", 128)}
    for one, other in zip(bench.outputs(signed), bench.outputs(shifted), strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
    assert shifted.facts["reencoded"]["activations"] == 4  # in and out of two products


def test_reencoding_looks_int8_rows_up_before_it_scales_them(bench):
    """Else each request turns the whole table into floats."""
    pytest.importorskip("nncf", reason="pip install 'conch-serving[smooth]'")
    signed = bench.run(SMOOTH)
    made = bench.run("reencode", artifact=signed)
    kept = bench.run({"reencode": {"embeddings": False}}, artifact=signed)
    assert made.facts["reencoded"]["embedding_tables"] == 1
    proto = onnx.load(made.file)
    onnx.checker.check_model(proto)
    tables = {one.name: one.data_type for one in proto.graph.initializer if ROWS in one.dims}
    gathered = {node.input[0] for node in proto.graph.node if node.op_type == "Gather"}
    assert gathered == set(tables)
    assert TensorProto.INT8 in tables.values()
    for one, other in zip(bench.outputs(kept), bench.outputs(made), strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)


def test_reencoding_refuses_a_float_file(bench):
    """It would pass it on unchanged, as if it were fast now."""
    with pytest.raises(ParityError, match="no QuantizeLinear"):
        bench.run("reencode")


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_unequal_shapes_are_refused_before_the_quantizer_fails_on_them(tmp_path, calibration):
    """minmax takes them."""
    bench = Bench(tmp_path, sizes="12, 12, 7, 12")
    with pytest.raises(ConfigError, match=r"ids comes in 2 shapes, from \[7\] to \[12\]"):
        bench.run(static(calibration=calibration))
    assert bench.cosine(bench.run(static())) > 0.9


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_last_batch_of_fewer_rows_is_left_out_of_histograms(bench, calibration):
    """ONNX Runtime fails on it, and most data sets end in one."""
    batches = bench.data.calibration()
    batches[-1] = {name: array[:3] for name, array in batches[-1].items()}
    assert bench.cosine(bench.run(static(calibration=calibration))) > 0.9
