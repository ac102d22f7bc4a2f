"""The TensorRT target with real tools: parser and builder, the command line, and a real Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from cli.export_engines import build_engines
from cli.repo import repo
from export import recipe as recipes
from export.config_pbtxt import triton_config
from export.steps import Artifact, Context, Form
from export.steps.to_tensorrt import ToTensorrt
from export.tensorrt import builder, candidates, gate, process
from serving import check
from serving.check import Severity
from serving.model_config import ModelConfig
from serving.repository import Repository
from tests.integration import onnx_models, toy_recipe

HAS_GPU = "gpu" in process.probe().values
needs_a_tool = pytest.mark.skipif(
    not gate._installed(gate.RTX) and not HAS_GPU,
    reason="tensorrt-rtx is not installed: pip install 'conch-serving[trtcheck]'",
)
RANDOM = np.random.default_rng(0)


class Calibration(CalibrationDataReader):
    """Four batches of noise."""

    def __init__(self) -> None:
        """Start at the first one."""
        self._batches = iter([{"x": RANDOM.standard_normal((4, 1, 8, 8), dtype=np.float32)}] * 4)

    def get_next(self) -> Any:
        """The next batch, or None."""
        return next(self._batches, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small CNN: as float, quantized as ONNX Runtime does by default, and as TensorRT wants."""
    folder = tmp_path_factory.mktemp("onnx")
    weights = {
        "w": RANDOM.standard_normal((4, 1, 3, 3), dtype=np.float32),
        "b": RANDOM.standard_normal(4, dtype=np.float32),
        "f": RANDOM.standard_normal((256, 4), dtype=np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Flatten", ["r"], ["d"], name="flat"),
            helper.make_node("MatMul", ["d", "f"], ["scores"], name="head"),
        ],
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "fp32.onnx")
    for name, options in (("default", {}), ("nobias", {"QuantizeBias": False})):
        quantize_static(
            folder / "fp32.onnx",
            folder / f"{name}.onnx",
            Calibration(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"ActivationSymmetric": True, **options},
        )
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe of that CNN."""
    path = toy_recipe.write(
        tmp_path_factory.mktemp("recipe"),
        model={
            "inputs": [{"name": "x", "dtype": "float32", "dims": [1, 8, 8]}],
            "outputs": [{"name": "scores", "dtype": "float32", "dims": [4]}],
        },
    )
    return recipes.load(path)


def to_tensorrt(onnx_file: Path, recipe, folder: Path, **options) -> Artifact:
    """The step on one file."""
    folder.mkdir(parents=True, exist_ok=True)
    nothing = cast(Any, None)  # the step asks for no data, and for no original
    context = Context(
        recipe=recipe,
        folder=folder,
        scratch=folder,
        original=nothing,
        data=nothing,
        source=nothing,
        tell=nothing,
    )
    artifact = Artifact(form=Form.ONNX, path=onnx_file, facts={"opset": {"ai.onnx": 20}})
    return ToTensorrt(**options).run(artifact, context)


@needs_a_tool
@pytest.mark.parametrize("name", ["fp32", "nobias"])
def test_gate_builds_what_tensorrt_takes(files, recipe, tmp_path, name):
    """Float, and INT8 with explicit Q/DQ whose bias stays float, are parsed and built."""
    made = to_tensorrt(files / f"{name}.onnx", recipe, tmp_path)
    assert made.form is Form.TENSORRT
    assert made.file.read_bytes() == (files / f"{name}.onnx").read_bytes()
    assert [path.name for path in made.extra] == ["build.json"]
    assert made.facts["opset"] == {"ai.onnx": 20}
    told = made.facts["tensorrt"]["gate"]
    assert (told["parsed"], told["built"], told["errors"]) == (True, True, [])
    assert told["engine_bytes"] > 1000
    assert told["tensors"] == {"x": "float32", "scores": "float32"}
    assert [verdict.passed for verdict in gate.verdicts(made.facts)] == [True, True]
    again = to_tensorrt(files / f"{name}.onnx", recipe, tmp_path / "again")
    assert again.facts == made.facts
    assert again.extra[0].read_bytes() == made.extra[0].read_bytes()


@needs_a_tool
def test_gate_refuses_onnx_runtimes_default_quantization(files, recipe, tmp_path):
    """Its 32-bit bias cannot be dequantized by TensorRT: the reason names the operator."""
    made = to_tensorrt(files / "default.onnx", recipe, tmp_path)
    (verdict,) = gate.verdicts(made.facts)
    assert verdict.gate == "tensorrt.parse"
    assert not verdict.passed
    assert "operator DequantizeLinear (node b_DequantizeLinear)" in str(verdict)
    assert "Int32" in str(verdict)
    assert "\n" not in str(verdict)
    assert made.facts["tensorrt"]["gate"]["unsupported"]


@needs_a_tool
def test_gate_names_an_operator_that_tensorrt_does_not_have(files, recipe, tmp_path):
    """The graph is valid ONNX, and still cannot be served by TensorRT."""
    proto = onnx.load(files / "fp32.onnx")
    proto.graph.node[1].op_type = "Frobnicate"
    proto.graph.node[1].domain = "com.acme"
    proto.opset_import.append(helper.make_opsetid("com.acme", 1))
    onnx.save(proto, tmp_path / "odd.onnx")
    made = to_tensorrt(tmp_path / "odd.onnx", recipe, tmp_path / "out")
    (verdict,) = gate.verdicts(made.facts)
    assert "operator Frobnicate (node relu) is not known to TensorRT" in str(verdict)


@needs_a_tool
def test_hang_is_ended_and_keeps_what_was_found(files, recipe, tmp_path):
    """A pipe that nobody writes to blocks the runner for good, after the parser gave up on it."""
    os.mkfifo(tmp_path / "pipe.onnx")
    build = to_tensorrt(files / "fp32.onnx", recipe, tmp_path / "out").extra[0]
    request = {
        "action": "gate",
        "module": gate.tool(),
        "onnx": str(tmp_path / "pipe.onnx"),
        "build": json.loads(build.read_text(encoding="utf-8")),
    }
    found = process.run(request, timeout_s=3.0)
    assert found.ended == "not done after 3 s"
    assert found.values["parsed"] is False


@pytest.fixture
def repository(files, recipe, tmp_path):
    """A repository with the variant as it is published, without an engine."""
    if not HAS_GPU and not gate._installed(gate.RTX):
        pytest.skip("no TensorRT of any kind is here")
    made = to_tensorrt(files / "fp32.onnx", recipe, tmp_path / "made")
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository")
    config = triton_config(recipe, "cnn_trt", target=Form.TENSORRT)
    publish(repository, config, made)
    return repository


def publish(repository: Repository, config: ModelConfig, made: Artifact) -> int:
    """As export does."""
    paths = {path.name: path for path in (made.file, *made.extra)}
    return repository.publish(config.name, config, paths, {"files": {}, "steps": []})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_config_is_ready_for_tritons_tensorrt_backend(repository):
    """On a GPU, without ONNX Runtime's parameters; nothing is left to complete."""
    config = repository.read_config("cnn_trt")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert [group.kind for group in config.instance_group] == [1]  # KIND_GPU
    assert config.instance_group[0].gpus == [0]
    assert not config.parameters
    there = {path.name for path in (repository.root / "cnn_trt" / "1").iterdir()}
    assert there == {"model.onnx", "build.json", "lineage.json"}


def test_dry_run_lists_what_a_gpu_host_would_build(repository):
    """Anywhere, and without a change."""
    before = tree(repository.root)
    done = CliRunner().invoke(build_engines, [str(repository.root), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    (engine,) = json.loads(done.stdout)["engines"]
    assert (engine["model"], engine["version"], engine["state"]) == ("cnn_trt", 1, "to build")
    assert engine["reason"] == "it has no engine"
    assert tree(repository.root) == before


@pytest.mark.skipif(HAS_GPU, reason="this host has a GPU")
def test_build_without_a_gpu_is_one_clear_error(repository):
    """What is missing, what to do instead, exit code 1; nothing changed."""
    before = tree(repository.root)
    command = [sys.executable, "-c", "from cli.main import main; main()", "export"]
    done = subprocess.run(
        [*command, "build-engines", str(repository.root)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "NVIDIA driver" in done.stderr
    assert "docker compose --profile gpu run --rm build-engines" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(repository.root) == before


def test_nothing_to_build_needs_no_gpu(tmp_path):
    """The one-shot container must not stop a server that has no TensorRT model."""
    onnx_models.publish_double(tmp_path, "double")
    done = CliRunner().invoke(build_engines, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "nothing to build" in done.stderr
    named = CliRunner().invoke(build_engines, [str(tmp_path), "--model", "double"])
    assert "no served version has a build.json" in str(named.exception)


def test_engine_takes_its_place_beside_the_published_files(repository, recipe, files, tmp_path):
    """It is whole or absent, the model can be published again, and no check complains."""
    (candidate,) = candidates.find(repository)
    (finding,) = check.check(repository)
    assert finding.severity is Severity.WARNING
    assert "engine is not built" in finding.message
    listed = CliRunner().invoke(repo, ["list", "--repository", str(repository.root)])
    assert "1 (no engine)" in listed.stdout

    staged = repository.state / "tmp" / "staged.plan"
    staged.write_bytes(b"an engine")
    builder.place(repository, candidate, staged, {"plan_sha256": "x"})
    assert (candidate.folder / "model.plan").read_bytes() == b"an engine"
    assert not staged.exists()
    assert check.check(repository) == []
    made = to_tensorrt(files / "fp32.onnx", recipe, tmp_path / "again")
    assert publish(repository, repository.read_config("cnn_trt"), made) == 1


def test_server_without_tensorrt_serves_the_other_models(repository, start_server, connect):
    """The model, and an ensemble of it, are left out with a reason; nothing fails to load."""
    onnx_models.publish_double(repository.root, "double")
    folder = repository.root / "pipeline"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "empty").touch()
    (folder / "config.pbtxt").write_text(
        'name: "pipeline" platform: "ensemble" max_batch_size: 8\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [1, 8, 8] }\n'
        'output { name: "scores" data_type: TYPE_FP32 dims: 4 }\n'
        'ensemble_scheduling { step { model_name: "cnn_trt" model_version: -1 '
        'input_map { key: "x" value: "x" } output_map { key: "scores" value: "scores" } } }\n'
    )
    server = start_server(repository.root)
    states = {model.name: model for model in server.models}
    assert states["double"].ready
    assert states["cnn_trt"].left_out
    assert "no TensorRT backend" in states["cnn_trt"].reason
    assert states["pipeline"].reason == "its member cnn_trt is left out"
    client = connect(server)
    assert client.index()["double"] == "READY"
    assert not client.unavailable()
    answer = client.infer("double", {"x": np.ones((1, 4), dtype=np.float32)})
    assert (answer["y"] == 2).all()


@pytest.mark.skipif(
    not HAS_GPU or not gate._installed(gate.REAL),
    reason="needs an NVIDIA GPU and tensorrt for Python",
)
def test_engine_is_built_on_a_gpu(repository):
    """Built once, current after that, with its timing cache kept."""
    (built,) = builder.run(repository)
    assert built.state == "built", built.reason
    folder = repository.root / "cnn_trt" / "1"
    facts = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert facts["engine_bytes"] == (folder / "model.plan").stat().st_size
    assert (repository.state / "timing.cache").stat().st_size > 0
    (again,) = builder.run(repository)
    assert again.state == "current"
