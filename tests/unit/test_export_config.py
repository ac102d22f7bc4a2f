"""The config that is published: complete, explicit, as the recipe says."""

import re

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from conch.errors import ConfigError
from export import publish, recipe
from serving import model_config
from tests.unit.test_export_recipe import WHOLE
from tests.unit.toy_variants import accepted, artifact, served

__all__ = ["artifact"]
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
