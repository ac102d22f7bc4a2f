"""Export runs that are refused: a model, data or a disk that will not do, each with its reason."""

from __future__ import annotations

import json
import os
import subprocess

import onnx
import pytest
from onnx import TensorProto, helper

from conch.errors import ConfigError, ParityError, RepositoryError
from export import judge
from export import recipe as recipes
from export.steps import Artifact, Form
from export.tasks import Bench, Job
from serving.repository import Repository
from tests.integration import toy_recipe
from tests.integration.toy_recipe import a_model, run


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        ("return self.first(x.reshape(2, 16))", "forward fails on inputs"),
        ("return self.first(x).mean(dim=0, keepdim=True)", "batch axis is fixed"),
        (
            "return self.first(x) if int(x.shape[0]) != 5 else self.first(x) * 2",
            "batch axis is fixed",
        ),
        ("y = self.first(x); return y - y.mean(dim=0)", "changes with the other samples"),
        ("return self.first(x) * float('nan')", "holds NaN or infinity"),
        ("return self.first(x).double()", "is float64, the recipe says float32"),
        ("return self.first(x)[:, :3]", "has dims [3], the recipe says [4]"),
        ("return self.first(x), x", "gives 2 outputs, the recipe names 1"),
        ("raise ValueError('on purpose')", "on purpose"),
    ],
)
def test_model_that_cannot_be_served_is_refused_with_the_reason(tmp_path, forward, says):
    """Before anything is published; each in words of the model, not of the exporter."""
    path = toy_recipe.write(tmp_path, model_code=a_model(forward))
    with pytest.raises((ConfigError, ParityError)) as caught:
        run(path)
    assert says in str(caught.value)
    assert not Repository(tmp_path / "repository").models()


def test_output_name_that_collides_inside_the_graph_is_refused(tmp_path):
    """The exporter writes an invalid file without a word when an output is called `embedding`."""
    model = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, ids):
        return self.table(ids).mean(dim=1)

def load():
    return Bag()
"""
    data = """
import numpy as np

def evaluation():
    return [{"ids": np.arange(40, dtype=np.int64).reshape(4, 10)}]
"""
    parts = {"model_code": model, "data_code": data, "data": {"calibration": None}}
    inputs = [{"name": "ids", "dtype": "int64", "dims": [10]}]
    bad, good = (
        {"inputs": inputs, "outputs": [{"name": name, "dtype": "float32", "dims": [4]}]}
        for name in ("embedding", "bag_embedding")
    )
    with pytest.raises(ConfigError, match="embedding is also that of a value inside"):
        run(toy_recipe.write(tmp_path, model=bad, **parts))
    assert run(toy_recipe.write(tmp_path, model=good, **parts), only=["fp32"]).accepted


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("def load():\n    raise RuntimeError('no weights')\n", "raised RuntimeError: no weights"),
        ("def load():\n    return 7\n", "gave a int, must give a torch.nn.Module"),
        ("def lood():\n    pass\n", "has no function load; it has lood"),
    ],
)
def test_factory_that_gives_no_model_is_refused(tmp_path, model, says):
    """With the recipe's key and the function's name."""
    with pytest.raises(ConfigError) as caught:
        run(toy_recipe.write(tmp_path, model_code=model))
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return []", "gave no batches"),
        ("return {'x': 1}", "must give a list of batches"),
        ("return [{'y': np.zeros((2, 16), np.float32)}]", "has the keys y, must have x"),
        ("return [{'x': np.zeros((2, 16))}]", "x is float64, must be float32"),
        ("return [{'x': np.zeros((2, 15), np.float32)}]", "must be [batch, 16]"),
        ("return [{'x': np.full((2, 16), np.nan, np.float32)}]", "holds NaN"),
        ("return open('/no/such/file')", "raised FileNotFoundError"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, body, says):
    """Before it reaches a quantizer, whose messages say less."""
    data = f"import numpy as np\ndef evaluation():\n    {body}\ndef calibration():\n    return []\n"
    with pytest.raises(ConfigError) as caught:
        run(toy_recipe.write(tmp_path, data_code=data))
    assert says in caught.value.message


def test_variant_whose_outputs_are_nan_is_refused_whatever_the_gates(tmp_path):
    """A file that gives NaN: log of a negative number."""
    path = toy_recipe.write(tmp_path, gates={"fidelity": None})
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["n"]),
        helper.make_node("Log", ["n"], ["scores"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])
        for name in ("x", "scores")
    ]
    graph = helper.make_graph(nodes, "nan", tensors[:1], tensors[1:])
    file = tmp_path / "nan.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file
    )
    recipe = recipes.load(path)
    job = Job(recipe_path=path, recipe=recipe, stages=tmp_path / "stages", load_key="none")
    with pytest.raises(ParityError, match="nan: output scores holds NaN"):
        judge.quality(
            Bench(job, lambda *_: None),
            Artifact(form=Form.ONNX, path=file),
            reference=[],
            original={},
            variant="nan",
            gate=None,
            output=None,
        )


def test_unwritable_repository_is_refused_before_any_work(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "file").write_text("")
    path = toy_recipe.write(tmp_path / "recipe")
    with pytest.raises(RepositoryError, match="cannot be made"):
        run(path, repository=tmp_path / "file" / "repository")
    assert not (path.parent / "work").exists()


@pytest.fixture
def tiny_disk(tmp_path):
    """A filesystem of 64 kB; skipped where mounting is not allowed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_really_full_disk_leaves_nothing_half_written(tmp_path, tiny_disk):
    """The model does not fit: an error, an empty repository, a saved report."""
    model = toy_recipe.GOOD_MODEL.replace("64", "4096")
    path = toy_recipe.write(tmp_path / "recipe", model_code=model)
    with pytest.raises(RepositoryError, match="No space left"):
        run(path, repository=tiny_disk / "repository", only=["fp32"])
    repository = Repository(tiny_disk / "repository")
    assert repository.models() == []
    assert list(repository.root.rglob("*.onnx")) == []
    report = json.loads((path.parent / "work" / "toy" / "report.json").read_text())
    assert "not published" in report["variants"][0]["reason"]
