"""Originals of toy recipes, loaded and checked as an export does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.export import Dim

from conch.errors import ConfigError
from export import original as originals
from export import preflight
from export import recipe as recipes
from export.data import RecipeData
from export.source import Source
from tests.integration import toy_recipe


class Net(nn.Module):
    """What the program and the ONNX file hold."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 8)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Linear(8, 4)

    def forward(self, x):
        """Scores ``[batch, 4]`` of rows ``[batch, 16]``."""
        return self.second(self.dropout(torch.relu(self.first(x))))


def a_program(path, *, module=None, dtype=torch.float32, largest=8, dynamic=True):
    """Save an exported program."""
    module = (module or Net().eval()).to(dtype)
    shapes = ({0: Dim("batch", min=1, max=largest)},) if dynamic else None
    rows = torch.ones(2, 16, dtype=dtype)
    torch.export.save(torch.export.export(module, (rows,), dynamic_shapes=shapes), path)
    return path


def an_onnx(
    path,
    *,
    batch="batch",
    weight=None,
    op="Relu",
    domain="",
    opset=17,
    ir=8,
    extra_input=False,
    external=False,
):
    """Save a two-layer ONNX file."""
    random = np.random.default_rng(0)
    w = random.standard_normal((16, 4)).astype(np.float32) if weight is None else weight
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 16])]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [batch, 2]))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node(op, ["product"], ["scores"], domain=domain),
        ],
        "net",
        inputs,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(w, "w")],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    proto = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    onnx.save(proto, path, save_as_external_data=external, location="net.data", size_threshold=0)
    return path


def rows(count=5):
    """Inputs of the toy model."""
    return {"x": np.random.default_rng(1).standard_normal((count, 16), dtype=np.float32)}


def loaded(folder, *, variants=None, **source):
    """The original of a toy recipe with this source: (original, recipe, path)."""
    variants = variants or [{"name": "fp32", "steps": [] if "onnx" in source else ["to_onnx"]}]
    path = toy_recipe.write(folder, model={"factory": None, **source}, variants=variants)
    recipe = recipes.load(path)
    return originals.load(recipe, Source(folder)), recipe, path


def refusal(folder, error=ConfigError, **source):
    """What the refusal of such an original says."""
    with pytest.raises(error) as caught:
        loaded(folder, **source)
    return str(caught.value)


def checked(folder, original, recipe):
    """Run the whole preflight on it."""
    data = RecipeData(recipe, Source(folder))
    preflight.check(original, recipe, data.examples)
    return preflight.summary(original, recipe)
