"""Inputs made from a config, and the bytes of a request."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from conch.errors import ConfigError
from perf.inputs import infer_request, input_shapes, make_inputs, parse_shapes

TEXT = """
name: "m" max_batch_size: 8
input [
  { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "image" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] },
  { name: "label" data_type: TYPE_STRING dims: [ 2 ] },
  { name: "extra" data_type: TYPE_FP32 dims: [ -1 ] optional: true }
]
"""
SHAPES = {"sequence": (32,), "image": (64, 48)}


def config(text: str = TEXT) -> model_config_pb2.ModelConfig:
    """The config as a protobuf message."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_inputs_have_shapes_types_and_safe_values() -> None:
    """Token ids lie within every vocabulary, masks are ones, optional inputs are left out."""
    inputs = make_inputs(config(), shapes=SHAPES, batch=4)
    assert {name: array.shape for name, array in inputs.items()} == {
        "input_ids": (4, 32),
        "attention_mask": (4, 32),
        "image": (4, 3, 64, 48),
        "label": (4, 2),
    }
    assert inputs["input_ids"].dtype == np.int64
    assert inputs["input_ids"].min() >= 1
    assert inputs["input_ids"].max() <= 1000
    assert np.all(inputs["attention_mask"] == 1)
    assert inputs["image"].dtype == np.float32
    assert inputs["label"].dtype == np.object_


def test_inputs_have_no_batch_axis_when_the_model_has_none() -> None:
    """max_batch_size 0 means that the dimensions are the whole shape."""
    bare = config('name: "m" input { name: "x" data_type: TYPE_UINT8 dims: [ 2 ] }')
    inputs = make_inputs(bare)
    assert inputs["x"].shape == (2,)
    assert inputs["x"].dtype == np.uint8


def test_shapes_take_all_dimensions_or_the_variable_ones() -> None:
    """Both ``3,64,48`` and ``64,48`` are understood for [3, -1, -1]."""
    both = [input_shapes(config(), {**SHAPES, "image": size}) for size in ((3, 64, 48), (64, 48))]
    assert both[0] == both[1]


def test_shapes_default_to_those_of_the_warm_up() -> None:
    """A config that Conch published knows a size for each input; what is given goes before it."""
    warm = config(
        """name: "m" max_batch_size: 8 input { name: "x" data_type: TYPE_INT64 dims: [ -1 ] }
        model_warmup { name: "w" batch_size: 1
          inputs { key: "x" value { data_type: TYPE_INT64 dims: [ 32 ] zero_data: true } } }"""
    )
    assert input_shapes(warm) == {"x": (32,)}
    assert input_shapes(warm, {"x": (7,)}) == {"x": (7,)}
    assert input_shapes(warm, {"sequence": (9,)}) == {"x": (9,)}


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({}, "every -1 needs a size"),
        ({"sequence": (8,), "image": (4, 64, 48)}, "must fit"),
        ({"sequence": (8,), "image": (64,)}, "must fit"),
        ({"input_id": (8,)}, "Did you mean 'input_ids'"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    """A missing, contradicting or misspelt size is an error that says what to give."""
    with pytest.raises(ConfigError, match=says):
        input_shapes(config(), shapes)


@pytest.mark.parametrize("text", ["sequence", "=3", "x=", "x=0", "x=-1", "x=a", "x=1,,2", "x=1.5"])
def test_parse_shapes_refuses_what_is_no_size(text: str) -> None:
    """Sizes are whole numbers above 0."""
    with pytest.raises(ConfigError, match="shape"):
        parse_shapes((text,))


def test_batch_must_fit_the_model() -> None:
    """A batch above max_batch_size would be refused by Triton, so it is refused here."""
    with pytest.raises(ConfigError, match="1 to 8"):
        make_inputs(config(), shapes=SHAPES, batch=9)


def test_request_bytes_are_what_triton_reads() -> None:
    """The serialised request has the arrays back, strings included."""
    inputs = make_inputs(config(), shapes=SHAPES)
    request = service_pb2.ModelInferRequest.FromString(infer_request("m", inputs))
    raw = dict(zip([item.name for item in request.inputs], request.raw_input_contents, strict=True))
    assert [item.datatype for item in request.inputs] == ["INT64", "INT64", "FP32", "BYTES"]
    assert list(request.inputs[2].shape) == [1, 3, 64, 48]
    ids = np.frombuffer(raw["input_ids"], dtype=np.int64)
    assert np.array_equal(ids, inputs["input_ids"].ravel())
    assert list(deserialize_bytes_tensor(raw["label"])) == list(inputs["label"].ravel())
