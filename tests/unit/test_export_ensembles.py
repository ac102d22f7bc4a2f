"""What the ensembles section may say, and the configs that it becomes."""

import base64
import io
import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from conch.errors import ConfigError
from export import ensembles, load_test, publish, recipe
from serving import model_config, probe

TEXT = """
version: 1
model:
  name: minilm
  factory: model.py:load
  axes: {sequence: {min: 1, max: 128, example: 32}}
  inputs:
    - {name: input_ids, dtype: int64, dims: [sequence]}
    - {name: attention_mask, dtype: int32, dims: [sequence]}
  outputs:
    - {name: vector, dtype: float32, dims: [384]}
variants:
  - {name: fp32, steps: [to_onnx]}
  - {name: int8, steps: [to_onnx]}
  - {name: draft, steps: [to_onnx], publish: false}
gates: {fidelity: null}
serving: {max_batch_size: 16}
ensembles:
  - name: sentences
    model: int8
    text: {tokenizer: tokenizer.json, max_tokens: 64, pad_to: [16, 64]}
"""
IMAGE = """
version: 1
model:
  name: digits
  factory: model.py:load
  inputs:
    - {name: image, dtype: float32, dims: [3, 28, 14]}
  outputs:
    - {name: scores, dtype: float32, dims: [2]}
variants:
  - {name: fp32, steps: [to_onnx]}
gates: {fidelity: null}
ensembles:
  - name: read
    model: fp32
    image: {mean: [0.1, 0.2, 0.3], std: [0.5]}
    labels: {file: labels.txt}
"""


def changed(text, *path, to):
    """The recipe with one value of its first ensemble, or of the whole, replaced."""
    data = yaml.safe_load(text)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return yaml.safe_dump(data, sort_keys=False)


@pytest.mark.parametrize(
    ("text", "path", "value", "message"),
    [
        (TEXT, ("ensembles", 0, "model"), "int4", "sentences.model is int4, variants to publish"),
        (TEXT, ("ensembles", 0, "model"), "draft", "variants to publish are fp32, int8"),
        (TEXT, ("ensembles", 0, "name"), "minilm_int8", "the name minilm_int8 is taken"),
        (TEXT, ("ensembles", 0, "name"), "../up", "String should match pattern"),
        (TEXT, ("ensembles", 0, "image"), {}, "must have exactly one of text and image"),
        (TEXT, ("ensembles", 0, "text"), None, "must have exactly one of text and image"),
        (TEXT, ("ensembles", 0, "text", "pad_to"), [16], "must ascend and end with max_tokens"),
        (TEXT, ("ensembles", 0, "text", "pad_to"), [64, 16], "must ascend and end with max_toke"),
        (TEXT, ("ensembles", 0, "text", "mask"), None,
         "text fills input_ids, the model's inputs are input_ids, attention_mask"),
        (TEXT, ("ensembles", 0, "text", "tokenizer"), "package:x/../y", "must be package:NAME/"),
        (TEXT, ("model", "inputs", 0, "dtype"), "float32", "input input_ids is float32"),
        (TEXT, ("model", "inputs", 0, "dims"), [7], "with one axis of varying size"),
        (IMAGE, ("model", "inputs", 0, "dims"), [28, 14, 3], "must be [1 or 3, height, width]"),
        (IMAGE, ("model", "inputs", 0, "dtype"), "int64", "must be float32, float16 or uint8"),
        (IMAGE, ("model", "inputs", 0, "dtype"), "uint8", "it takes pixels as they are"),
        (IMAGE, ("ensembles", 0, "image", "mean"), [1, 2], "mean has 2 numbers, must have 1 or 3"),
        (IMAGE, ("ensembles", 0, "image", "std"), [0], "greater than 0"),
        (IMAGE, ("ensembles", 0, "labels", "output"), "logits", "must be one of scores"),
        (IMAGE, ("ensembles", 0, "labels", "top"), 3, "must be one axis of at least 3 classes"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_take_is_refused(text, path, value, message):
    """With the value seen and what is allowed."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipe.loads(changed(text, *path, to=value))


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder with a tokenizer and labels."""
    (tmp_path / "tokenizer.json").write_text(a_tokenizer(padding={"pad_id": 7}))
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    return tmp_path


def a_tokenizer(**content):
    """The parts of a tokenizer.json that we read."""
    return json.dumps({"padding": None, "added_tokens": [], "model": {}, **content})


def test_text_becomes_two_models(folder):
    """The tokenizer with all its settings, and the pipeline; what runs in Triton is copied."""
    typed = recipe.loads(TEXT)
    tokens, pipeline = ensembles.publications(typed, folder, {"int8": "minilm_int8"})
    assert (tokens.name, pipeline.name) == ("sentences_tokens", "sentences")
    assert tokens.versions[0].files == {
        "model.py": ensembles.MODELS / "tokens.py",
        "tokenizer.json": folder / "tokenizer.json",
    }
    given = {k: v.string_value for k, v in tokens.config.parameters.items() if "probe" not in k}
    assert given == {
        "max_tokens": "64",
        "truncate": "false",
        "pad_to": "16,64",
        "pad_id": "7",
        "fill.input_ids": "ids",
        "fill.attention_mask": "mask",
    }
    assert [(o.name, list(o.dims)) for o in tokens.config.output] == [
        ("input_ids", [-1]),
        ("attention_mask", [-1]),
    ]
    assert tokens.config.max_batch_size == pipeline.config.max_batch_size == 16
    steps = pipeline.config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["sentences_tokens", "minilm_int8"]
    assert [(o.name, list(o.dims)) for o in pipeline.config.output] == [("vector", [384])]
    assert pipeline.needs == ("sentences_tokens", "minilm_int8")
    assert pipeline.versions[0].files == {}


def test_image_with_labels_becomes_three_models(folder):
    """The pipeline answers with names and scores, not with the model's output."""
    typed = recipe.loads(IMAGE)
    pixels, labels, pipeline = ensembles.publications(typed, folder, {"fp32": "digits_fp32"})
    assert pixels.config.parameters["mean"].string_value == "0.1,0.2,0.3"
    assert labels.versions[0].files["labels.txt"] == folder / "labels.txt"
    assert [(o.name, list(o.dims)) for o in pipeline.config.output] == [
        ("label", [1]),
        ("score", [1]),
    ]
    steps = pipeline.config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [pixels.name, "digits_fp32", labels.name]


def test_an_ensemble_without_its_variant_is_left_out(folder):
    """The variant missed a gate, say."""
    assert ensembles.publications(recipe.loads(TEXT), folder, {"fp32": "minilm_fp32"}) == []


def test_an_ensemble_takes_the_first_of_its_variants_that_is_published(folder):
    """Of those on the Pareto front nobody knows beforehand."""
    typed = recipe.loads(changed(TEXT, "ensembles", 0, "model", to=["int8", "fp32"]))
    found = ensembles.publications(typed, folder, {"fp32": "m_fp32"})[-1]
    assert found.needs == ("sentences_tokens", "m_fp32")
    found = ensembles.publications(typed, folder, {"fp32": "m_fp32", "int8": "m_int8"})[-1]
    assert found.needs == ("sentences_tokens", "m_int8")


def test_an_ensemble_around_versions_must_name_the_served_variant():
    """Another one would be asked than it says: the first, or the one in serving.served."""
    versions = {"max_batch_size": 16, "layout": "versions"}
    with pytest.raises(ConfigError, match=r"model is int8, but with .* which is fp32"):
        recipe.loads(changed(TEXT, "serving", to=versions))
    assert recipe.loads(changed(TEXT, "serving", to={**versions, "served": "int8"}))


def test_configs_are_equal_when_printed_and_parsed(folder):
    """What is published is what was meant."""
    for text, names in ((TEXT, {"int8": "m_int8"}), (IMAGE, {"fp32": "m_fp32"})):
        for one in ensembles.publications(recipe.loads(text), folder, names):
            assert model_config.parse(model_config.to_text(one.config)) == one.config


def test_a_dry_run_can_show_every_config(folder):
    """Of the pipeline and its parts, too, under the names that they are published by."""
    found = ensembles.publications(recipe.loads(TEXT), folder, {"int8": "m_int8"})
    shown = publish.configs(found)
    assert list(shown) == ["sentences_tokens", "sentences"]
    for one in found:
        assert model_config.parse(shown[one.name]) == one.config


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (a_tokenizer(padding={"pad_id": 3}), 3),
        (a_tokenizer(added_tokens=[{"id": 5, "content": "[PAD]"}]), 5),
        (a_tokenizer(added_tokens=[{"id": 1, "content": "<pad>"}]), 1),
    ],
)
def test_padding_comes_from_the_tokenizer(tmp_path, content, expected):
    """Its own setting, else its padding token."""
    (tmp_path / "t.json").write_text(content)
    assert ensembles.pad_id(tmp_path / "t.json", key="k") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is no tokenizer.json"),
        ("[]", "is no tokenizer.json"),
        (json.dumps({"model": {}}), "is no tokenizer.json"),
        (a_tokenizer(), "has no padding token"),
    ],
)
def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path, content, message):
    """Before anything is published."""
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        ensembles.pad_id(tmp_path / "t.json", key="k")


def test_missing_files_are_named(tmp_path):
    """By the key of the recipe."""
    with pytest.raises(ConfigError, match=r"ensembles: sentences.text.tokenizer.*is not there"):
        ensembles.publications(recipe.loads(TEXT), tmp_path, {"int8": "m"})
    with pytest.raises(ConfigError, match=r"ensembles: read.labels.file.*is not there"):
        ensembles.publications(recipe.loads(IMAGE), tmp_path, {"fp32": "m"})


def test_labels_must_name_every_class(folder):
    """Not fewer, not more."""
    (folder / "labels.txt").write_text("no\nyes\nmaybe\n")
    with pytest.raises(ConfigError, match="has 3 lines, the output scores has 2 classes"):
        ensembles.publications(recipe.loads(IMAGE), folder, {"fp32": "m"})


@pytest.mark.parametrize(
    ("dims", "layout", "mode", "size"),
    [((1, 6, 4), "chw", "L", (4, 6)), ((6, 4, 3), "hwc", "RGB", (4, 6))],
)
def test_health_checks_send_a_png_of_the_models_size(dims, layout, mode, size):
    """Pillow reads it."""
    image = Image.open(io.BytesIO(ensembles.blank_png(*dims, layout=layout)))
    image.load()
    assert (image.mode, image.size) == (mode, size)


def test_probes_send_the_sample_of_the_config(folder):
    """Through the ensemble as well as to its first part."""
    typed = recipe.loads(IMAGE)
    pixels, _, pipeline = ensembles.publications(typed, folder, {"fp32": "m"})
    for one in (pixels, pipeline):
        sent = probe.synthetic_inputs(one.config, batch_size=2)["image"]
        assert sent.shape == (2, 1)
        assert sent[0, 0] == base64.b64decode(one.config.parameters["probe.image"].string_value)
        assert Image.open(io.BytesIO(sent[0, 0])).size == (14, 28)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"y": np.array([1.0, 2.0])}, ""),
        ({"y": np.array([1.0, 2.001])}, ""),
        ({"y": np.array([1.0, 2.2])}, "output y: differs by"),
        ({"y": np.array([1.0, np.nan])}, "output y: differs by"),
        ({"y": np.array([1.0])}, "output y: float64 [1], must be float64 [2]"),
        ({"y": np.array([1, 2])}, "output y: int64 [2], must be float64 [2]"),
        ({}, "output y: not answered"),
    ],
)
def test_load_test_tells_what_differs(answer, message):
    """Rounding passes; NaN, other values, shapes and types do not."""
    found = load_test.different({"y": np.array([1.0, 2.0])}, answer)
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_load_test_wants_equal_integers():
    """A class is right or wrong."""
    assert load_test.different({"y": np.array([1, 2])}, {"y": np.array([1, 3])})


@pytest.mark.parametrize(("side", "expected"), [(28, 64), (1024, 5)])
def test_load_test_keeps_its_largest_request_small(side, expected):
    """64 MiB of inputs: a full batch of large images would be gigabytes."""
    text = changed(IMAGE, "model", "inputs", 0, "dims", to=[3, side, side])
    typed = recipe.loads(changed(text, "serving", to={"max_batch_size": 64}))
    assert load_test.largest_batch(typed) == expected
