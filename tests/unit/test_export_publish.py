"""The published config and lineage; a disk that refuses leaves nothing half-written."""

import dataclasses
import datetime
import errno
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from conch.errors import ConfigError, RepositoryError
from export import hashing, publish, recipe
from export.ensemble_spec import Ensemble, ImageInput
from export.parity import at_least
from export.report import VariantReport
from export.steps import Artifact, Form
from serving import engines, model_config
from serving.repository import Repository, VersionFiles
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


STATEFUL = """
version: 1
model:
  name: toy
  factory: model.py:load
  inputs:
    - {name: x, dtype: float32, dims: [3]}
    - {name: memory, dtype: float32, dims: [2, 3]}
  outputs:
    - {name: y, dtype: float32, dims: [1]}
    - {name: next, dtype: float32, dims: [2, 3]}
variants:
  - {name: fp32, steps: [to_onnx]}
gates: {fidelity: null}
serving:
  max_batch_size: 16
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
    assert list(found.instance_group[0].gpus) == [0]  # all of them, were they not named
    assert not found.model_warmup


def served(**serving):
    """The whole recipe with these keys in its serving section."""
    data = yaml.safe_load(WHOLE)
    data["serving"] |= serving
    return recipe.loads(yaml.safe_dump(data))


def test_batching_priorities_cache_and_groups_are_as_the_recipe_says():
    """Every key of the section has its place in the config."""
    typed = served(
        preferred_batch_sizes=[4, 8],
        priority_levels=3,
        default_priority_level=2,
        response_cache=True,
        instance_groups=[{"device": "cpu", "count": 2}, {"device": "gpu", "gpus": [0, 2]}],
    )
    expected = """
      dynamic_batching {
        max_queue_delay_microseconds: 2000 preferred_batch_size: 4 preferred_batch_size: 8
        priority_levels: 3 default_priority_level: 2
      }
      instance_group { count: 2 kind: KIND_CPU }
      instance_group { count: 1 kind: KIND_GPU gpus: 0 gpus: 2 }
      response_cache { enable: true }
    """
    found = publish.triton_config(typed, "m")
    wanted = text_format.Parse(expected, ModelConfig())
    for key in ("dynamic_batching", "instance_group", "response_cache"):
        assert getattr(found, key) == getattr(wanted, key)


def test_default_priority_is_the_lowest():
    """A level that Triton would pick itself is written down."""
    found = publish.triton_config(served(priority_levels=3), "m")
    assert found.dynamic_batching.default_priority_level == 3


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"preferred_batch_sizes": [32]}, "preferred_batch_sizes has 32, max_batch_size is 16"),
        ({"default_priority_level": 1}, "default_priority_level is 1, priority_levels is 0"),
        ({"instances": 2, "instance_groups": [{"device": "cpu"}]},
         "instance_groups stands in place of instances"),
        ({"instance_groups": [{"device": "gpu", "gpus": []}]}, "must name at least one"),
        ({"instance_groups": [{"device": "cpu", "gpus": [1]}]}, "the device cpu, which has none"),
        ({"served": "int8"}, "served is for `layout: versions`"),
        ({"served": "int4", "layout": "versions"},
         "serving.served is int4, variants are fp32, int8"),
        ({"labels": "l.txt", "labels_output": "logits"}, "outputs are scores"),
        ({"labels_output": "scores"}, "given without labels"),
        ({"sequence": {"state": [{"input": "ids", "output": "next"}]}},
         "output next is not in the model, its outputs are scores"),
        ({"sequence": {"state": [{"input": "ids", "output": "scores"}]}},
         "differ in dtype or dims"),
        ({"sequence": {"state": [{"input": "ids", "output": "scores"}]}, "response_cache": True},
         "depend on a state"),
        ({"sequence": {"state": [{"input": "ids", "output": "scores"}]}, "priority_levels": 2},
         "sequence replaces dynamic batching"),
    ],
)  # fmt: skip
def test_serving_keys_that_contradict_are_refused(serving, message):
    """With both of them named."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        served(**serving)


def test_state_is_hidden_from_clients_and_starts_as_zeros():
    """Its tensors move from inputs and outputs into sequence_batching; without dynamic batching."""
    typed = recipe.loads(
        STATEFUL
        + "  sequence: {state: [{input: memory, output: next}], max_idle: 2s, max_sequences: 5}\n"
    )
    found = publish.triton_config(typed, "m")
    assert [tensor.name for tensor in found.input] == ["x"]
    assert [tensor.name for tensor in found.output] == ["y"]
    assert not found.HasField("dynamic_batching")
    assert not found.model_warmup
    assert (
        found.sequence_batching
        == text_format.Parse(
            """
        sequence_batching {
          max_sequence_idle_microseconds: 2000000
          oldest { max_candidate_sequences: 5 max_queue_delay_microseconds: 1000 }
          state {
            input_name: "memory" output_name: "next" data_type: TYPE_FP32 dims: 2 dims: 3
            initial_state {
              name: "zeros" data_type: TYPE_FP32 dims: 2 dims: 3 zero_data: true
            }
          }
        }""",
            ModelConfig(),
        ).sequence_batching
    )


def test_a_state_must_leave_something_to_clients():
    """An input and an output."""
    with pytest.raises(ConfigError, match="leaves no input or no output"):
        recipe.loads(
            STATEFUL.replace("    - {name: x, dtype: float32, dims: [3]}\n", "")
            + "  sequence: {state: [{input: memory, output: next}]}\n"
        )


def test_labels_are_published_beside_the_config(tmp_path, artifact):
    """And named on the output they belong to."""
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    typed = served(labels="names.txt")
    (found,) = publish.variants(typed, tmp_path, [accepted(typed, 1, artifact)])
    assert found.config.output[0].label_filename == "labels.txt"
    assert found.model_files == {"labels.txt": tmp_path / "names.txt"}


def test_labels_must_name_every_class(tmp_path, artifact):
    """A shifted list would name every class wrongly."""
    (tmp_path / "names.txt").write_text("a\nb\n")
    typed = served(labels="names.txt")
    with pytest.raises(ConfigError, match=r"has 2 lines, the output scores has 4 classes"):
        publish.variants(typed, tmp_path, [accepted(typed, 1, artifact)])


def accepted(typed, index, artifact):
    """A variant of the recipe that passed its gates."""
    variant = typed.variants[index]
    return publish.Accepted(variant=variant, artifact=artifact, lineage={"variant": variant.name})


def two_variants(typed, folder, *contents):
    """Publications of fp32 and int8 with these contents."""
    found = []
    for index, content in enumerate(contents):
        path = folder / f"built{index}" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        found.append(accepted(typed, index, Artifact(form=Form.ONNX, path=path)))
    return publish.variants(typed, folder, found)


def served_now(repository):
    """The versions of ``toy`` that Triton serves."""
    return engines.served_versions(repository.read_config("toy"), repository.versions("toy"))


def test_variants_are_models_by_default(tmp_path):
    """One each, the newest version served."""
    first, second = two_variants(served(), tmp_path, b"a", b"b")
    assert (first.name, second.name) == ("toy_fp32", "toy_int8")
    assert first.config.version_policy.latest.num_versions == 1


def test_variants_as_versions_share_a_model_and_serve_one(repository, tmp_path):
    """Numbered in the recipe's order; the first is served, or the one that the recipe says."""
    (found,) = two_variants(served(layout="versions"), tmp_path, b"a", b"b")
    assert (found.name, found.variants) == ("toy", ("fp32", "int8"))
    assert publish.put(repository, found) == [1, 2]
    assert served_now(repository) == [1]
    (found,) = two_variants(served(layout="versions", served="int8"), tmp_path, b"a", b"b")
    assert publish.put(repository, found) == [1, 2]
    assert served_now(repository) == [2]


@pytest.mark.parametrize("says", ["fp32", None], ids=["served: fp32", "as it is now"])
def test_a_run_without_the_served_variant_does_not_switch(repository, tmp_path, says):
    """`--only int8` adds its version; who asks the model notices nothing."""
    typed = served(layout="versions", served=says)
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    (tmp_path / "new.onnx").write_bytes(b"new")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "new.onnx"))
    (found,) = publish.variants(typed, tmp_path, [only])
    assert publish.put(repository, found) == [3]
    assert served_now(repository) == [1]
    # The variant that somebody chose by hand is followed, where the recipe does not say.
    config = model_config.with_versions(repository.read_config("toy"), [3])
    repository.write_config("toy", config, reason="test")
    (found,) = two_variants(typed, tmp_path, b"a", b"newer")
    assert publish.put(repository, found) == [1, 4]
    assert served_now(repository) == [1 if says else 4]


def test_a_served_variant_that_missed_its_gates_at_first_is_replaced(repository, tmp_path):
    """Something has to answer; there is nothing in force to keep."""
    typed = served(layout="versions", served="fp32")
    (tmp_path / "model.onnx").write_bytes(b"b")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "model.onnx"))
    (found,) = publish.variants(typed, tmp_path, [only])
    assert publish.put(repository, found) == [1]
    assert served_now(repository) == [1]


def test_an_ensemble_of_a_variant_that_is_not_served_is_refused(repository, tmp_path):
    """It would ask the other one, without a word."""
    (found,) = two_variants(served(layout="versions", served="int8"), tmp_path, b"a", b"b")
    publish.put(repository, found)
    image = Ensemble(name="look", model=("fp32",), image=ImageInput())
    config = model_config.parse('name: "look" platform: "ensemble"')
    nothing = VersionFiles(files={}, lineage={})
    pipeline = publish.Publication(
        name="look", config=config, versions=(nothing,), ensemble=image, needs=("toy",)
    )
    with pytest.raises(RepositoryError, match=r"variant fp32, but toy serves int8 \(version 2\)"):
        publish.put(repository, pipeline)
    assert repository.models() == ["toy"]
    (found,) = two_variants(served(layout="versions", served="fp32"), tmp_path, b"a", b"b")
    publish.put(repository, found)
    assert publish.put(repository, pipeline) == [1]


def test_external_data_keeps_its_place_and_its_version(repository, tmp_path):
    """The model file names it by its relative path."""
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    for name in ("whole.onnx", "w.bin", "sub/w.bin"):
        (made / name).write_bytes(name.encode())
    extra = (made / "w.bin", made / "sub" / "w.bin")
    artifact = Artifact(form=Form.ONNX, path=made / "whole.onnx", extra=extra)
    typed = served()
    for _ in range(2):  # the second time nothing is new
        (found,) = publish.variants(typed, tmp_path, [accepted(typed, 0, artifact)])
        assert publish.put(repository, found) == [1]
    folder = repository.root / "toy_fp32" / "1"
    assert (folder / "sub" / "w.bin").read_bytes() == b"sub/w.bin"
    assert (folder / "w.bin").read_bytes() == b"w.bin"
    (made / "sub" / "w.bin").write_bytes(b"other")
    (found,) = publish.variants(typed, tmp_path, [accepted(typed, 0, artifact)])
    assert publish.put(repository, found) == [2]
    outside = tmp_path / "w.bin"
    with pytest.raises(ConfigError, match=r"would be published as w\.bin"):
        publish.version_files(dataclasses.replace(artifact, extra=(*extra, outside)))


def test_a_version_without_an_engine_does_not_replace_one_that_has_it(repository, tmp_path):
    """A server that starts before `build-engines` ran goes on serving the model."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_trt", target=Form.TENSORRT)

    def put(content):
        (tmp_path / "model.onnx").write_bytes(content)
        files = {"model.onnx": tmp_path / "model.onnx"}
        one = publish.Publication(
            name="toy_trt", config=config, versions=(VersionFiles(files=files, lineage={}),)
        )
        (number,) = publish.put(repository, one)
        return number, publish.served_now(repository, "toy_trt")

    backends = tmp_path / "backends"
    (backends / "tensorrt").mkdir(parents=True)
    assert put(b"first") == (1, [1])
    assert "engine is not built" in engines.left_out(repository, backends)["toy_trt"]
    assert put(b"second") == (2, [2])
    (repository.root / "toy_trt" / "2" / "model.plan").write_bytes(b"engine")
    assert put(b"second") == (2, [2])
    assert put(b"third") == (3, [2])
    assert put(b"third") == (3, [2])
    assert engines.left_out(repository, backends) == {}
    assert engines.unbuilt(repository, repository.read_config("toy_trt")) == []
    (repository.root / "toy_trt" / "3" / "model.plan").write_bytes(b"engine")
    assert put(b"third") == (3, [3])


def test_an_unchanged_variant_keeps_its_version(repository, tmp_path):
    """Only what is new gets a number; the old files stay for who rolls back."""
    typed = served(layout="versions", served="int8")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    (found,) = two_variants(typed, tmp_path, b"a", b"new")
    assert publish.put(repository, found) == [1, 3]
    assert repository.versions("toy") == [1, 2, 3]
    assert served_now(repository) == [3]


def test_an_engine_that_was_built_in_place_makes_no_new_version(repository, artifact):
    """`conch export build-engines` adds it to what was published."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_trt", target=Form.TENSORRT)
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    files = publish.version_files(artifact)
    assert repository.publish("toy_trt", config, files, {}) == 1
    for name in ("model.plan", "plan.json"):
        (repository.root / "toy_trt" / "1" / name).write_text("built here")
    assert repository.publish("toy_trt", config, files, {}) == 1
    (repository.root / "toy_trt" / "1" / "stray").write_text("not ours")
    assert repository.publish("toy_trt", config, files, {}) == 2


def test_versions_that_cannot_be_written_change_nothing(repository, tmp_path, monkeypatch):
    """Not even the first of them is left."""
    typed = served(layout="versions")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    before = visible(repository)
    (found,) = two_variants(typed, tmp_path, b"c", b"d")
    monkeypatch.setenv("CONCH_FAILPOINT", "repository.config.temp_written=enospc")
    typed_before = repository.config_text("toy")
    with pytest.raises(RepositoryError, match="No space left"):
        publish.put(repository, found)
    assert visible(repository) == before
    assert repository.config_text("toy") == typed_before


@pytest.mark.parametrize("point", ["repository.publish.copy", "repository.publish.staged"])
def test_a_killed_publish_leaves_nothing_after_the_next_one(repository, artifact, point):
    """kill -9 in the middle: Triton sees nothing of it, and the next publish of it cleans up."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_int8")
    code = (
        "import sys; from pathlib import Path; from serving import model_config; "
        "from serving.repository import Repository; "
        "Repository(Path(sys.argv[1])).publish('toy_int8', model_config.parse(sys.argv[2]), "
        "{'model.onnx': Path(sys.argv[3])}, {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository.root), model_config.to_text(config),
         str(artifact.file)],
        env={**os.environ, "CONCH_FAILPOINT": f"{point}=kill"}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert visible(repository) == {}
    aside = repository.state / "tmp"
    assert [path.name.partition(".")[0] for path in aside.iterdir()] == ["toy_int8"]
    foreign = aside / f"toy_int8.v2.{'0' * 32}"  # of another model, whose lock we do not hold
    foreign.mkdir()
    assert repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {}) == 1
    assert list(aside.iterdir()) == [foreign]


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
        report=VariantReport(
            name="int8",
            published_name="toy_int8",
            steps=("to_onnx", "quantize dynamic"),
            gates=(at_least("fidelity.cosine", 0.99, 0.98),),
        ),
        artifact=artifact,
        now=datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
    )
    assert found["published_at"] == "2026-11-21T00:00:00+00:00"
    assert found["files"] == {"model.onnx": hashing.file_sha256(artifact.file)}
    assert found["variant"] == "int8"
    assert found["steps"] == ["to_onnx", "quantize dynamic"]
    assert found["gates"][0] == {
        "gate": "fidelity.cosine", "value": 0.99, "sense": "at least", "limit": 0.98, "unit": "",
    }  # fmt: skip
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(found["versions"])


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
