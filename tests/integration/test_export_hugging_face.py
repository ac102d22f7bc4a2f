"""Originals from a folder of Hugging Face: what they give, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from conch.errors import ConfigError
from export import original as originals
from export import recipe as recipes
from export.data import RecipeData
from export.source import Source
from export.steps import Artifact
from tests.integration import toy_recipe
from tests.integration.toy_originals import checked


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder as save_pretrained writes it, with a tiny encoder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


TOKENS = """
import numpy as np
def evaluation():
    ids = np.array([[2, 7, 9, 3], [2, 8, 3, 0]])
    return [{"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}]
"""


def a_text_recipe(folder, bert, inputs=("input_ids", "attention_mask"), **options):
    """A recipe around the encoder."""
    path = toy_recipe.write(
        folder,
        data_code=TOKENS,
        model={
            "factory": None,
            "huggingface": {"folder": str(bert), **options},
            "axes": {"sequence": {"max": 16, "example": 4}},
            "inputs": [{"name": name, "dtype": "int64", "dims": ["sequence"]} for name in inputs],
            "outputs": [{"name": "vector", "dtype": "float32", "dims": [16]}],
        },
        data={"calibration": None},
    )
    recipe = recipes.load(path)
    return recipe, Source(folder)


def test_hugging_face_folder_with_pooling_is_an_original(tmp_path, bert):
    """The mean counts real tokens only; the vector has length 1; padding changes nothing."""
    recipe, source = a_text_recipe(tmp_path, bert, pooling="mean", normalize=True)
    original = originals.load(recipe, source)
    summary = checked(tmp_path, original, recipe)
    assert summary["source"] == "huggingface"
    batch = RecipeData(recipe, source).evaluation()[0]
    vectors = original.run(batch)["vector"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    short = original.run({name: array[1:, :3] for name, array in batch.items()})["vector"]
    np.testing.assert_allclose(short[0], vectors[1], atol=1e-5)
    kept = originals.keep(original, tmp_path, {})
    again = originals.stored(recipe, Artifact(form=kept.form, path=kept.path))
    np.testing.assert_array_equal(again.run(batch)["vector"], vectors)


def test_hugging_face_folder_without_the_wanted_weights_is_refused(tmp_path, bert):
    """A classifier would be made up at random, and silently."""
    recipe, source = a_text_recipe(
        tmp_path, bert, **{"class": "AutoModelForSequenceClassification", "output": "logits"}
    )
    with pytest.raises(ConfigError, match=r"no weights for \d tensors .* such as .*classifier"):
        originals.load(recipe, source)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class": "AutoModelForMiracles"}, "has no such class"),
        ({"inputs": ("ids",)}, "BertModel has no input ids; it has input_ids, attention_mask"),
        ({"inputs": ("input_ids",), "pooling": "mean"}, "no attention_mask"),
    ],
)
def test_hugging_face_options_that_do_not_fit_are_refused(tmp_path, bert, options, says):
    """Each with what would fit."""
    recipe, source = a_text_recipe(tmp_path, bert, **options)
    with pytest.raises(ConfigError) as caught:
        originals.load(recipe, source)
    assert says in str(caught.value)


def test_plain_tensors_of_a_hugging_face_folder_are_read_and_pickled_code_is_not_run(
    tmp_path, bert
):
    """pytorch_model.bin is read as tensors only."""
    folder = tmp_path / "old_style"
    shutil.copytree(bert, folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    recipe, source = a_text_recipe(tmp_path, folder)
    recipe_of_new, _ = a_text_recipe(tmp_path / "new", bert)
    batch = RecipeData(recipe, source).evaluation()[0]
    old = originals.load(recipe, source).run(batch)["vector"]
    np.testing.assert_array_equal(old, originals.load(recipe_of_new, source).run(batch)["vector"])

    trace = tmp_path / "was_run"
    torch.save({**weights, "more": _Evil(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read from"):
        originals.load(recipe, source)
    assert not trace.exists()


class _Evil:
    """Unpickling it makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (type(self.trace).touch, (self.trace,))
