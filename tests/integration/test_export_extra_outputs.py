"""ONNX files with outputs that a recipe does not name, as skl2onnx writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conch.errors import ConfigError
from export import pipeline, preflight_onnx
from export.session import Session
from serving.client import TritonClient
from serving.repository import Repository
from tests.integration import toy_recipe
from tests.integration.conftest import StartServer
from tests.integration.toy_originals import refusal, rows


def a_classifier(path: Path) -> Path:
    """``scores`` as a recipe wants them, and a label ``[batch]``, a NaN, and a sequence beside."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((16, 4)).astype(np.float32), "w")
    zero = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("Div", ["zero", "zero"], ["nan"]),
        helper.make_node("SequenceConstruct", ["scores"], ["probabilities"]),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("nan", TensorProto.FLOAT, [1]),
        helper.make_tensor_sequence_value_info("probabilities", TensorProto.FLOAT, None),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weight, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_outputs_that_the_recipe_leaves_out_are_no_fault(
    tmp_path: Path, start_server: StartServer
) -> None:
    """Built, judged, timed, published, answered by a real Triton: all by the declared output."""
    file = a_classifier(tmp_path / "net.onnx")
    path = toy_recipe.write(
        tmp_path,
        model={"factory": None, "onnx": "net.onnx"},
        variants=[
            {"name": "plain", "steps": []},
            {"name": "int8", "steps": [{"quantize": {"method": "dynamic"}}]},
        ],
        gates={"fidelity": {"metric": "cosine", "min": 0.9}},
        publish="accepted",
    )
    root = tmp_path / "repository"
    report = pipeline.run(path, repository=root, work_dir=tmp_path / "runs")
    assert {one.name: str(one.status) for one in report.variants} == {
        "plain": "published", "int8": "published",
    }, [one.reason for one in report.variants]  # fmt: skip
    outputs = Repository(root).read_config("toy_plain").output
    assert [tensor.name for tensor in outputs] == ["scores"]
    server = start_server(root)
    with TritonClient(server.endpoint.grpc_url) as client:
        got = client.infer("toy_plain", rows())
    assert set(got) == {"scores"}
    wanted = Session(file, outputs=("scores",)).run(rows())["scores"]
    np.testing.assert_allclose(got["scores"], wanted, atol=1e-5)


def test_a_declared_output_that_is_no_tensor_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """No dtype would help: the file has to be converted again."""
    a_classifier(tmp_path / "net.onnx")
    model = {
        "onnx": "net.onnx",
        "outputs": [{"name": "probabilities", "dtype": "float32", "dims": [4]}],
    }
    said = refusal(tmp_path, ConfigError, **model)
    assert "probabilities is a sequence in the file, Triton serves tensors" in said
    assert "options={'zipmap': False}" in said
    assert "unknown" not in said


def test_the_summary_names_every_output(tmp_path: Path) -> None:
    """Also those that are no tensors."""
    found = preflight_onnx.summary(a_classifier(tmp_path / "net.onnx"))["outputs"]
    assert {one["name"]: one["dtype"] for one in found} == {
        "label": "int64", "scores": "float32", "nan": "float32", "probabilities": "sequence",
    }  # fmt: skip
