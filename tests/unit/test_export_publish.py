"""The published config and lineage; a disk that refuses leaves nothing half-written."""

import datetime
import errno
import os
import shutil

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from conch.errors import ConfigError, RepositoryError
from export import publish, recipe
from export.steps import Artifact, Form
from serving import model_config
from serving.repository import Repository
from tests.unit.test_export_judge import a_report
from tests.unit.test_export_recipe import WHOLE

EXPECTED = """
name: "toy_int8"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 16
version_policy { latest { num_versions: 1 } }
input { name: "ids" data_type: TYPE_INT64 dims: -1 }
output { name: "scores" data_type: TYPE_FP32 dims: 4 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 2000 }
model_warmup {
  name: "batch_1" batch_size: 1 count: 1
  inputs { key: "ids" value { data_type: TYPE_INT64 dims: 8 zero_data: true } }
}
model_warmup {
  name: "batch_16" batch_size: 16 count: 1
  inputs { key: "ids" value { data_type: TYPE_INT64 dims: 8 zero_data: true } }
}
"""


@pytest.fixture
def artifact(tmp_path):
    """A built file."""
    path = tmp_path / "built" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights" * 100)
    return Artifact(form=Form.ONNX, path=path, facts={"opset": {"ai.onnx": 20}})


@pytest.fixture
def repository(tmp_path):
    """An empty repository."""
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")


def test_config_is_complete_and_explicit():
    """Nothing is left for Triton to fill in."""
    found = publish.triton_config(recipe.loads(WHOLE), "toy_int8")
    assert found == text_format.Parse(EXPECTED, ModelConfig())


def test_threads_become_the_backends_parameters_only_when_given():
    """Otherwise the server that runs it decides by its own cores."""
    bare = publish.triton_config(recipe.loads(WHOLE), "m")
    assert not bare.parameters
    threaded = publish.triton_config(recipe.loads(WHOLE + "  threads: 2\n"), "m")
    assert model_config.parameter(threaded, "intra_op_thread_count") == "2"
    assert model_config.parameter(threaded, "inter_op_thread_count") == "1"


def test_gpu_and_warm_up_follow_the_recipe():
    """KIND_GPU, and no warm-up when it is switched off."""
    found = publish.triton_config(
        recipe.loads(WHOLE + "  device: gpu\n  warm_up: false\n  instances: 3\n"), "m"
    )
    assert found.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert found.instance_group[0].count == 3
    assert not found.model_warmup


@pytest.mark.parametrize(
    ("dtype", "triton"),
    [("bool", "TYPE_BOOL"), ("uint8", "TYPE_UINT8"), ("float16", "TYPE_FP16"),
     ("float64", "TYPE_FP64"), ("int32", "TYPE_INT32")],
)  # fmt: skip
def test_dtypes_are_tritons(dtype, triton):
    """Every dtype a recipe may name has a name in Triton."""
    found = publish.triton_config(recipe.loads(WHOLE.replace("float32", dtype)), "m")
    assert triton in model_config.to_text(found)


@pytest.mark.parametrize("name", ["a b", "../a", "a;b", "", "a/b", "$(x)", "a\nb", ".hidden"])
def test_unsafe_name_is_refused(name):
    """Names end in paths, URLs and Triton's own shell line."""
    with pytest.raises(ConfigError, match="model name"):
        publish.triton_config(recipe.loads(WHOLE), name)


def test_lineage_tells_where_the_file_comes_from_and_why_it_was_let_in(artifact):
    """Hash, seed, versions, steps, gates with their numbers."""
    found = publish.lineage(
        recipe.loads(WHOLE),
        recipe_sha256="abc",
        report=a_report(),
        artifact=artifact,
        now=datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
    )
    assert found["published_at"] == "2026-11-21T00:00:00+00:00"
    assert found["files"] == {"model.onnx": publish.file_sha256(artifact.file)}
    assert found["steps"] == ["to_onnx", "quantize dynamic"]
    assert found["gates"][0] == {
        "gate": "fidelity.cosine", "value": 0.99, "sense": "at least", "limit": 0.98, "unit": "",
    }  # fmt: skip
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(found["versions"])


def test_recipe_hash_changes_with_the_code_it_names(tmp_path):
    """An edited data.py is another export."""
    (tmp_path / "data.py").write_text("a")
    before = publish.files_sha256([tmp_path / "data.py"])
    (tmp_path / "data.py").write_text("b")
    assert publish.files_sha256([tmp_path / "data.py"]) != before


@pytest.mark.parametrize(
    ("fails", "published_before"),
    [("copyfile", False), ("copyfile", True), ("fsync", False), ("fsync", True),
     ("config", False), ("config", True), ("replace", True)],
)  # fmt: skip
def test_full_disk_leaves_nothing_half_written(
    repository, artifact, monkeypatch, fails, published_before
):
    """Whatever write hits the end of the disk, the repository is as it was before."""
    typed = recipe.loads(WHOLE)
    config = publish.triton_config(typed, "toy_int8")
    if published_before:
        repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {"first": True})
        artifact.file.write_bytes(b"other weights")
    before = visible(repository)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def refused(*_args, **_kwargs):
        raise RepositoryError("config.pbtxt: No space left on device.")

    original_write = type(artifact.file).write_text

    def full_for_config(path, *args, **kwargs):
        return full() if path.name == "config.pbtxt" else original_write(path, *args, **kwargs)

    if fails == "copyfile":
        monkeypatch.setattr(shutil, "copyfile", full)
    elif fails == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif fails == "config":
        monkeypatch.setattr(type(artifact.file), "write_text", full_for_config)
    else:
        monkeypatch.setattr(type(repository), "write_text", refused)
    with pytest.raises(RepositoryError, match="No space left"):
        repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {"second": True})
    assert visible(repository) == before


def visible(repository):
    """What Triton can see: every file outside the state folder, with its content."""
    return {
        str(path.relative_to(repository.root)): path.read_bytes()
        for path in repository.root.rglob("*")
        if path.is_file() and path.relative_to(repository.root).parts[0] != ".conch"
    }
