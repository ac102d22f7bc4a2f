"""Quantization step by step on a small network with an embedding table, by the real tools."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conch.errors import ConfigError, ParityError
from export import parity
from export import recipe as recipes
from export.data import RecipeData
from export.optional import ToolMissing
from export.session import Session
from export.source import Source
from export.steps import Artifact, Context, Form, StepSpec
from export.steps.quantize.modelopt import RUNNER
from export.steps.quantize.smoothquant import make_signed
from export.tensorrt import process
from tests.integration import toy_recipe

WIDTH, ROWS, CLASSES = 32, 500, 4

DATA = """
import numpy as np

def batches(seed):
    random = np.random.default_rng(seed)
    return [{{"ids": random.integers(0, 500, (8, size))}} for size in ({sizes})]

def calibration():
    return batches(1)

def evaluation():
    return batches(2)
"""


def network() -> onnx.ModelProto:
    """Rows of a table → two linear layers → mean over the sequence. One channel is an outlier."""
    random = np.random.default_rng(0)
    table = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    up = random.standard_normal((WIDTH, 64)).astype(np.float32) / 6
    down = random.standard_normal((64, CLASSES)).astype(np.float32) / 8
    up[:, 0] *= 60  # its activations set the scale of all others of "down"
    down[0] /= 60
    values = {"table": table, "up": up, "down": down, "axes": np.array([1])}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup"),
            helper.make_node("MatMul", ["rows", "up"], ["wide"], name="up_product"),
            helper.make_node("Relu", ["wide"], ["positive"], name="relu"),
            helper.make_node("MatMul", ["positive", "down"], ["narrow"], name="down_product"),
            helper.make_node("ReduceMean", ["narrow", "axes"], ["scores"], name="mean", keepdims=0),
        ],
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Bench:
    """Runs steps one after the other, each in a folder of its own."""

    def __init__(self, folder: Path, *, sizes: str = "12, 12, 12, 12") -> None:
        """Write the network and the recipe around it."""
        path = toy_recipe.write(
            folder / "recipe",
            data_code=DATA.format(sizes=sizes),
            model={
                "axes": {"sequence": {"max": 64, "example": 12}},
                "inputs": [{"name": "ids", "dtype": "int64", "dims": ["sequence"]}],
            },
        )
        self.folder = folder
        self.recipe = recipes.load(path)
        self.source = Source(path.parent)
        self.data = RecipeData(self.recipe, self.source)
        self.told: list[tuple[int, int]] = []
        onnx.save(network(), folder / "float.onnx")
        self.start = Artifact(form=Form.ONNX, path=folder / "float.onnx", facts={"opset": 20})

    def run(self, *steps, artifact: Artifact | None = None) -> Artifact:
        """The artifact after these steps of a recipe."""
        result = artifact or self.start
        for spec in steps:
            number = len(list(self.folder.iterdir()))
            made, scratch = (self.folder / f"{number}{kind}" for kind in ("made", "scratch"))
            made.mkdir()
            scratch.mkdir()
            context = Context(
                recipe=self.recipe,
                folder=made,
                scratch=scratch,
                original=None,  # type: ignore[arg-type]  # no step on ONNX asks for it
                data=self.data,
                source=self.source,
                tell=lambda done, total, note="": self.told.append((done, total)),
            )
            result = StepSpec.model_validate(spec).step.run(result, context)
        return result

    def outputs(self, artifact: Artifact):
        """What the file gives for the evaluation data."""
        session = Session(artifact.file, threads=1)
        return [session.run(batch) for batch in self.data.evaluation()]

    def cosine(self, artifact: Artifact) -> float:
        """Agreement with the float network."""
        return parity.compare(self.outputs(self.start), self.outputs(artifact)).cosine


@pytest.fixture
def bench(tmp_path):
    """The network, nothing run yet."""
    return Bench(tmp_path)


def zero_points(artifact: Artifact, op_type: str) -> set[tuple[str, int]]:
    """Dtype and largest value of the zero points of these nodes' activations."""
    proto = onnx.load(artifact.file)
    constants = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    found = [
        constants[node.input[2]]
        for node in proto.graph.node
        if node.op_type == op_type and node.input[0] not in constants
    ]
    return {(zero.dtype.name, int(zero.max())) for zero in found}


def static(**options):
    """A static step; options as in a recipe."""
    return {"quantize": {"method": "static_qdq", "op_types": ["MatMul"], **options}}


SMOOTH = {"quantize": {"method": "smoothquant"}}


# ------------------------------------------------------------------ methods


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


def test_modelopt_saves_weights_in_int8(bench):
    """Symmetric, and smaller than the float file."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    made = bench.run({"quantize": {"method": "modelopt"}})
    assert zero_points(made, "QuantizeLinear") == {("int8", 0)}
    kinds = {one.name: one.data_type for one in onnx.load(made.file).graph.initializer}
    assert TensorProto.INT8 in kinds.values()
    assert made.facts["calibration"] == "max"
    assert bench.cosine(made) > 0.9


def test_modelopt_takes_weights_from_a_file_beside_and_a_strange_working_folder(
    bench, tmp_path, monkeypatch
):
    """A file `export.py` in the current folder must not hide ours."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    (tmp_path / "export.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "split" / "model.onnx"
    path.parent.mkdir()
    onnx.save(network(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    split = Artifact(form=Form.ONNX, path=path, extra=(path.with_name("w.data"),), facts={})
    made = bench.run({"quantize": {"method": "modelopt"}}, artifact=split)
    assert made.extra == ()
    assert bench.cosine(made) > 0.9


def test_modelopt_that_takes_too_long_is_ended(bench):
    """And the step says so."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    with pytest.raises(ParityError, match=r"ModelOpt failed \(not done after 0\.01 s\)"):
        bench.run({"quantize": {"method": "modelopt", "timeout": 0.01}})


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("runner", [RUNNER, process.RUNNER], ids=["modelopt", "tensorrt"])
def test_runner_ends_with_the_process_that_started_it(tmp_path, monkeypatch, runner):
    """Also after kill -9, and when that comes before the runner has started."""
    asked, data = tmp_path / "request", tmp_path / "data"
    for path in (asked, data):
        os.mkfifo(path)  # one waits for the other's end: the runner waits for its data for ever
    (tmp_path / "slow_tool.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = (
        "import subprocess, sys\n"
        "one = subprocess.Popen([sys.executable, '-P', *sys.argv[1:]])\n"
        "print(one.pid, flush=True)\n"
        "one.wait()\n"
    )
    command = [sys.executable, "-c", code, str(runner), str(asked), str(tmp_path / "result")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        request = {"parent": parent.pid, "calibration_data": str(data)}
        asked.write_text(json.dumps({**request, "action": "gate", "module": "slow_tool"}))
        parent.kill()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert not alive(child)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


def test_fp16_halves_the_file_and_keeps_inputs_and_outputs(bench):
    """Row numbers above the largest allowed value do not keep the table in float32."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    made = bench.run("to_fp16")
    assert made.file.stat().st_size < 0.65 * bench.start.file.stat().st_size
    assert bench.cosine(made) > 0.9999
    assert bench.outputs(made)[0]["scores"].dtype == np.float32


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


@pytest.mark.parametrize(
    ("package", "spec"),
    [
        ("nncf", SMOOTH),
        ("modelopt.onnx.quantization", {"quantize": {"method": "modelopt"}}),
        ("modelopt.onnx.autocast", "to_fp16"),
    ],
)
def test_missing_tool_is_told_with_how_to_install_it(bench, monkeypatch, package, spec):
    """The variant is skipped on it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ToolMissing, match="which is not installed") as caught:
        bench.run(spec)
    assert "pip install 'conch-serving[" in (caught.value.hint or "")


# ------------------------------------------------------------------ one calibration, two encodings


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


# ------------------------------------------------------------------ sensitivity


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


# ------------------------------------------------------------------ bad calibration data


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


def test_excluding_a_node_that_is_not_there_is_refused(bench):
    """It would silently do nothing."""
    with pytest.raises(ConfigError, match="nonsense not among the graph's"):
        bench.run(static(exclude=["nonsense"]))
