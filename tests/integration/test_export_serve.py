"""What export publishes is what a real Triton serves, over both of its protocols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tokenizers import Tokenizer
from tritonclient.utils import np_to_triton_dtype

from export import parity, pipeline
from export import recipe as recipes
from export.data import RecipeData
from export.source import Source, call, load_module
from tests.integration import toy_recipe

pytestmark = pytest.mark.alone  # it finds what test_export_examples built

EXAMPLES = Path(__file__).parents[2] / "examples"

SEQUENCE_MODEL = """
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids, mask):
        states = self.table(ids) * mask.unsqueeze(-1)
        return self.head(states), mask.sum(dim=1, keepdim=True)

def load():
    return Tagger()
"""

SEQUENCE_DATA = """
import numpy as np

def evaluation():
    random = np.random.default_rng(0)
    return [
        {"ids": random.integers(100, size=(4, n)), "mask": np.ones((4, n), dtype=np.int64)}
        for n in (3, 12)
    ]
"""


VARIANTS = {
    "minilm_fp32": 1e-4,
    "minilm_int8": None,
    "toy_fp32": 1e-5,
    "toy_int8": None,
    "tagger_fp32": 1e-5,
}
"""Published name → largest difference to the original; None for a cosine of 0.98 at least."""


@pytest.fixture(scope="module")
def published(tmp_path_factory, export_work):
    """A repository with models of several shapes; and model name → its recipe."""
    folder = tmp_path_factory.mktemp("published")
    tagger = toy_recipe.write(
        folder / "tagger",
        model_code=SEQUENCE_MODEL,
        data_code=SEQUENCE_DATA,
        model={
            "name": "tagger",
            "axes": {"length": {"min": 1, "max": 64, "example": 12}},
            "inputs": [
                {"name": "ids", "dtype": "int64", "dims": ["length"]},
                {"name": "mask", "dtype": "int64", "dims": ["length"]},
            ],
            "outputs": [
                {"name": "tags", "dtype": "float32", "dims": ["length", 5]},
                {"name": "lengths", "dtype": "int64", "dims": [1]},
            ],
        },
        data={"calibration": None},
        variants=[{"name": "fp32", "steps": ["to_onnx"]}],
    )
    paths = {
        "minilm": EXAMPLES / "minilm" / "recipe.yaml",
        "toy": toy_recipe.write(folder / "toy"),
        "tagger": tagger,
    }
    for model, path in paths.items():
        report = pipeline.run(
            path,
            repository=folder / "repository",
            work_dir=export_work if path.is_relative_to(EXAMPLES) else folder / "work",
            only=[n.removeprefix(f"{model}_") for n in VARIANTS if n.startswith(model)],
        )
        assert not [one.reason for one in report.variants if not one.accepted]
    return folder / "repository", paths


@pytest.fixture(scope="module")
def server(start_server, published):
    """One real Triton with all of them loaded."""
    return start_server(published[0])


@pytest.fixture(scope="module")
def expected(published):
    """Model name → (inputs of the first two evaluation batches, the torch original's outputs)."""
    found = {}
    for model, path in published[1].items():
        recipe = recipes.load(path)
        source = Source(path.parent)
        original = load_module(source, recipe.model, seed=recipe.seed)
        batches = [
            {name: array[: recipe.serving.max_batch_size] for name, array in batch.items()}
            for batch in RecipeData(recipe, source).evaluation()[:2]
        ]
        found[model] = [(batch, call(original, batch, recipe.model)) for batch in batches]
    return found


@pytest.mark.parametrize("protocol", [grpc_client, http_client], ids=["grpc", "http"])
@pytest.mark.parametrize("name", VARIANTS)
def test_served_variant_answers_as_the_original(server, expected, name, protocol):
    """Every published model, over both protocols, in batches of several sizes and lengths."""
    endpoint = server.endpoint
    url = endpoint.grpc_url if protocol is grpc_client else endpoint.http_url
    url = url.removeprefix("http://")
    with protocol.InferenceServerClient(url) as client:
        for batch, outputs in expected[name.rpartition("_")[0]]:
            for rows in (1, len(next(iter(batch.values())))):
                inputs = [tensor(protocol, key, array[:rows]) for key, array in batch.items()]
                answer = client.infer(name, inputs)
                for key, reference in outputs.items():
                    check(reference[:rows], answer.as_numpy(key), VARIANTS[name])


def test_text_in_vector_out_equals_the_pytorch_pipeline(server, connect):
    """100 sentences through the ensemble, alone and in batches, against tokenizer and torch.

    They are of documents that calibration does not see; each one has to be right, not the mean.
    """
    import torch

    source = Source(EXAMPLES / "minilm")
    original = source.call("model.py:load", key="model.factory", seed=0)
    folder = source.call("model.py:model_folder", key="weights", seed=0)
    lines = source.call("data.py:_lines", "lee_background.cor", key="data", seed=0)[100:]
    sentences = [s for line in lines for s in line.split(". ") if 20 < len(s) < 200][:100]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    reference = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
    for sentence in sentences:
        one = tokenizer.encode(sentence)
        with torch.inference_mode():
            ids, mask = torch.tensor([one.ids]), torch.tensor([one.attention_mask])
            reference.append(original(ids, mask)[0].numpy())
    torch.set_num_threads(threads)
    client = connect(server)
    for rows in (1, 16):
        got = []
        for start in range(0, len(sentences), rows):
            texts = [[sentence.encode()] for sentence in sentences[start : start + rows]]
            answer = client.infer("minilm_text", {"text": np.array(texts, dtype=object)})
            got.append(answer["sentence_embedding"])
        cosine = parity.cosine(np.stack(reference), np.concatenate(got))
        assert len(cosine) == 100
        assert cosine.min() >= 0.98  # which variant that is, the machine decides


def tensor(protocol, name, array):
    """One input of a request."""
    found = protocol.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array)
    return found


def check(reference, got, tolerance):
    """Equal within the tolerance, or alike in direction."""
    assert got.dtype == reference.dtype
    if tolerance is not None:
        np.testing.assert_allclose(got, reference, atol=tolerance)
    else:
        assert parity.cosine(reference, got).min() > 0.97
