"""The TensorRT gate's words and verdicts, and which engines are to be built. No TensorRT needed."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from conch.errors import ConfigError
from export import hashing, numbering, publish
from export import recipe as recipes
from export.parity import Verdict
from export.tensorrt import build_recipe, builder, candidates, gate, process
from export.tensorrt.build_recipe import BuildRecipe, InputProfile
from export.tensorrt.candidates import Candidate, Host
from export.tensorrt.process import Outcome
from serving import model_config
from serving.model_config import ModelConfig
from serving.repository import Repository, VersionFiles
from tests.integration import toy_recipe

AMPERE = {"hardware_compatibility": "ampere_plus"}
HERE = Host(gpu="NVIDIA L4", compute_capability="8.9", tensorrt="11.1.0.106")

INT32_BIAS = (
    "Invalid Node - c.bias_DequantizeLinear\nITensor::getDimensions: Error Code 4: API Usage Error "
    "(c.bias_DequantizeLinear: input has type Int32 but must have type FP8, FP4, Int4, Int8, or "
    "UInt8. In checkType at /_src/optimizer/common/nodeBase.cpp:456)\n"
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient "
    "for CUDA runtime version))"
)
ATTENTION = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: "
    "attachExceptionMsgToGraph] MyelinCheckException: decompose_composite_ops.cpp:59: "
    "CHECK(composite_op->is_decomposable()) failed. Attention operation was not supported by a "
    "dedicated kernel.  (See https://docs.nvidia.com/x.html for shapes.)"
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            {"operator": "DequantizeLinear", "node": "c.bias_DequantizeLinear", "text": INT32_BIAS},
            (
                "operator DequantizeLinear (node c.bias_DequantizeLinear): input has type Int32 "
                "but must have type FP8, FP4, Int4, Int8, or UInt8"
            ),
        ),
        (
            {
                "operator": "QuantizeLinear",
                "node": "q",
                "text": "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not "
                "supported. Please set kENABLE_UINT8 to enable it if it is on DLA.",
            },
            "operator QuantizeLinear (node q): Non-zero zero point is not supported",
        ),
        (
            {"operator": "Frobnicate", "node": "", "text": 'creator && "Plugin not found, are .."'},
            (
                "operator Frobnicate (node without a name) is not known to TensorRT, and no plugin "
                "has its name"
            ),
        ),
        ({"text": ATTENTION}, "Attention operation was not supported by a dedicated kernel"),
    ],
)
def test_clean_leaves_the_reason_on_one_line(error, line):
    """Errors of tensorrt-rtx 1.7, as they came."""
    assert gate.clean(error) == line


def facts(**changes):
    """Facts of an artifact that passed."""
    found = {
        "tool": "tensorrt-rtx",
        "version": "1.7.1",
        "parsed": True,
        "built": True,
        "errors": [],
        "mismatched": [],
    }
    return {"tensorrt": {"gate": {**found, **changes}}}


def test_verdicts_pass_when_parsed_and_built():
    """Two verdicts, and no reason for either."""
    found = gate.verdicts(facts())
    assert [(v.gate, v.passed, v.note) for v in found] == [
        ("tensorrt.parse", True, ""),
        ("tensorrt.build", True, ""),
    ]


def test_verdicts_of_a_file_that_is_not_parsed_say_why():
    """It cannot be built either: one verdict, with the operator and the tool."""
    (found,) = gate.verdicts(facts(parsed=False, built=False, errors=["operator Det is not"]))
    assert not found.passed
    assert str(found) == "tensorrt.parse: operator Det is not [tensorrt-rtx 1.7.1]"


def test_verdicts_refuse_other_types_than_config_pbtxt_will_say():
    """Triton would refuse to load such an engine."""
    found = gate.verdicts(
        facts(mismatched=["y is float32 in the engine and float64 in the recipe"])
    )
    assert [v.gate for v in found if not v.passed] == ["tensorrt.types"]
    assert gate.mismatched({"tensors": {"y": "float32", "x": "int64"}}, {"y": "float64"}) == [
        "y is float32 in the engine and float64 in the recipe"
    ]


def test_verdicts_of_other_artifacts_are_none():
    """An ONNX variant meets no such gate."""
    assert gate.verdicts({"opset": {"ai.onnx": 20}}) == ()


def test_verdicts_of_old_reports_can_be_read():
    """They have no note."""
    old = {"gate": "g", "value": 1.0, "limit": 2.0, "sense": "at most", "passed": True}
    assert Verdict(**old).note == ""


def test_crash_after_a_good_parse_is_a_build_that_failed():
    """What was found before the end counts; the end is the reason."""
    outcome = Outcome(values={"version": "1", "parsed": True}, ended="crashed with SIGSEGV")
    told = gate.summary(outcome, with_tool="tensorrt_rtx")
    assert (told["parsed"], told["built"]) == (True, False)
    assert told["errors"] == ["tensorrt_rtx crashed with SIGSEGV"]


def test_module_that_is_no_tensorrt_is_told_and_not_raised(tmp_path):
    """Whatever ends the runner comes back as a word on how it ended."""
    request = {"action": "gate", "module": "json", "onnx": str(tmp_path / "m.onnx")}
    found = process.run(request, timeout_s=60.0)
    assert found.ended.startswith("ended with exit code 1")
    assert "built" not in found.values


def test_profile_covers_batches_and_axes(tmp_path):
    """From the smallest to the largest that clients may send, tuned for a typical one."""
    path = toy_recipe.write(
        tmp_path,
        model={
            "axes": {"length": {"min": 2, "max": 64, "example": 12}},
            "inputs": [{"name": "x", "dtype": "float32", "dims": ["length", 3]}],
            "outputs": [{"name": "scores", "dtype": "float32", "dims": [4]}],
        },
        serving={"max_batch_size": 8},
    )
    found = build_recipe.profile(recipes.load(path))
    assert found == {"x": InputProfile(min=(1, 2, 3), opt=(4, 12, 3), max=(8, 64, 3))}


@pytest.fixture
def candidate(tmp_path):
    """A version with a current engine for the host above."""
    shape = InputProfile(min=(1, 4), opt=(2, 4), max=(4, 4))
    build = BuildRecipe(onnx="model.onnx", onnx_sha256="a" * 64, profile={"x": shape})
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"engine")
    told = builder.plan_facts(build, HERE, plan, now=datetime.datetime.now(datetime.UTC))
    return Candidate(model="m", version=1, folder=tmp_path, build=build, plan_facts=told)


def test_engine_that_fits_is_left_alone(candidate):
    """Nothing to do, on the host that it was built for."""
    assert candidates.reason_to_build(candidate, HERE) == ""


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (replace(HERE, tensorrt="11.2.1.2"), "TensorRT 11.1.0.106, here is 11.2.1.2"),
        (replace(HERE, gpu="NVIDIA A10"), "is for NVIDIA L4"),
        (replace(HERE, gpu="NVIDIA H100", compute_capability="9.0"), "is for NVIDIA L4 (8.9)"),
    ],
)
def test_engine_of_another_host_is_built_again(candidate, host, reason):
    """TensorRT refuses such a plan, or it is slow."""
    assert reason in candidates.reason_to_build(candidate, host)


@pytest.mark.parametrize(
    ("options", "host", "again"),
    [
        ({"version_compatible": True}, replace(HERE, tensorrt="11.2.1.2"), False),
        ({"version_compatible": True}, replace(HERE, tensorrt="10.16.1.11"), True),
        (AMPERE, replace(HERE, gpu="B", compute_capability="12.0"), False),
        (AMPERE, replace(HERE, gpu="T4", compute_capability="7.5"), True),
        ({"hardware_compatibility": "same_compute_capability"}, replace(HERE, gpu="L40"), False),
    ],
)
def test_compatible_engines_serve_other_hosts(candidate, options, host, again):
    """What the options promise is used: no needless build."""
    build = candidate.build.model_copy(update=options)
    facts = {**candidate.plan_facts, "build_sha256": build.sha256}
    found = candidates.reason_to_build(replace(candidate, build=build, plan_facts=facts), host)
    assert bool(found) is again


def test_engine_of_another_recipe_or_content_is_built_again(candidate):
    """Changed build.json, a lost plan.json, a changed or a missing plan: each is noticed."""
    other = candidate.build.model_copy(update={"optimization_level": 5})
    assert "build.json" in candidates.reason_to_build(replace(candidate, build=other), None)
    assert "no plan.json" in candidates.reason_to_build(replace(candidate, plan_facts={}), None)
    (candidate.folder / "model.plan").write_bytes(b"changed")
    assert "is not the engine" in candidates.reason_to_build(candidate, None)
    (candidate.folder / "model.plan").unlink()
    assert candidates.reason_to_build(candidate, None) == "it has no engine"


def test_build_recipe_survives_its_file(candidate, tmp_path):
    """Written and read, it is the same; a broken file is a clear error."""
    path = tmp_path / "build.json"
    path.write_text(candidate.build.to_json(), encoding="utf-8")
    assert build_recipe.load(path) == candidate.build
    path.write_text(json.dumps({"version": 1, "onnx": "model.onnx"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="onnx_sha256: required"):
        build_recipe.load(path)


@pytest.fixture
def published(tmp_path):
    """A function that publishes a TensorRT version of a model, as export does."""
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository")

    def put(name, content):
        onnx = tmp_path / "model.onnx"
        onnx.write_bytes(content)
        shape = InputProfile(min=(1, 4), opt=(2, 4), max=(4, 4))
        sha256 = hashing.file_sha256(onnx)
        build = BuildRecipe(onnx="model.onnx", onnx_sha256=sha256, profile={"x": shape})
        (tmp_path / "build.json").write_text(build.to_json())
        files = {file: tmp_path / file for file in ("model.onnx", "build.json")}
        config = ModelConfig(name=name, backend="tensorrt", default_model_filename="model.plan")
        config.version_policy.latest.num_versions = 1
        version = VersionFiles(files=files, lineage={})
        return publish.put(
            repository, publish.Publication(name=name, config=config, versions=(version,))
        )[0]

    return repository, put


@pytest.fixture
def a_builder(monkeypatch):
    """TensorRT replaced by one that writes an engine: what is done with it needs no GPU."""

    def run(request, *, timeout_s):
        Path(request["plan"]).write_bytes(b"engine of " + Path(request["onnx"]).read_bytes())
        return Outcome(values={"parsed": True, "built": True, "engine_bytes": 9})

    monkeypatch.setattr(builder, "find_host", lambda: HERE)
    monkeypatch.setattr(builder.process, "run", run)


def states(found):
    """Model, version and state of each."""
    return [(one.model, one.version, one.state) for one in found]


@pytest.mark.usefixtures("a_builder")
def test_a_new_version_is_served_when_its_engine_is_there(published):
    """Until then the old one is, which has its engine; one chosen by hand stays chosen."""
    repository, put = published
    assert put("m", b"first") == 1
    assert states(builder.run(repository)) == [("m", 1, "built")]
    assert put("m", b"second") == 2
    assert numbering.served_now(repository, "m") == [1]
    assert states(builder.run(repository, dry_run=True)) == [
        ("m", 1, "current"),
        ("m", 2, "to build"),
    ]
    assert states(builder.run(repository)) == [("m", 1, "current"), ("m", 2, "built")]
    assert numbering.served_now(repository, "m") == [2]
    assert repository.read_config("m").version_policy.latest.num_versions == 1
    chosen = model_config.with_versions(repository.read_config("m"), [1])
    repository.write_config("m", chosen, reason="test")
    assert states(builder.run(repository)) == [("m", 1, "current")]
    assert numbering.served_now(repository, "m") == [1]


@pytest.mark.usefixtures("a_builder")
def test_a_kill_before_the_switch_is_made_good_by_the_next_run(published):
    """The engine is in its place, its facts are not yet, the old version is served."""
    repository, put = published
    put("m", b"first")
    builder.run(repository)
    put("m", b"second")
    (repository.root / "m" / "2" / "model.plan").write_bytes(b"engine")
    assert states(builder.run(repository))[1] == ("m", 2, "built")
    assert numbering.served_now(repository, "m") == [2]


@pytest.mark.usefixtures("a_builder")
def test_an_engine_that_cannot_be_placed_does_not_stop_the_others(published):
    """It is told as failed, and what a killed build left is removed."""
    repository, put = published
    for name in ("a", "b"):
        put(name, b"weights")
    (repository.root / "a" / "1" / "model.plan").mkdir()
    aside = repository.state / "tmp"
    left = [aside / f"a.1.{'0' * 32}.{end}" for end in ("plan", "cache")]
    kept = aside / "config.pbtxt.0"
    for path in (*left, kept):
        path.write_bytes(b"left")
    found = builder.run(repository)
    assert states(found) == [("a", 1, "failed"), ("b", 1, "built")]
    assert "model.plan" in found[0].reason
    assert [path.name for path in aside.iterdir()] == [kept.name]


@pytest.mark.usefixtures("a_builder")
def test_no_room_aside_fails_one_by_one(published):
    """Not even the folder can be made."""
    repository, put = published
    put("a", b"weights")
    shutil.rmtree(repository.state / "tmp")
    (repository.state / "tmp").write_text("a file")
    assert states(builder.run(repository)) == [("a", 1, "failed")]
