"""A small network with an embedding table, and a bench that runs quantization steps on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import parity
from export import recipe as recipes
from export.data import RecipeData
from export.session import Session
from export.source import Source
from export.steps import Artifact, Context, Form, StepSpec
from tests.integration import toy_recipe

WIDTH, ROWS, CLASSES = 32, 500, 4
DATA = """
import numpy as np

def batches(seed):
    random = np.random.default_rng(seed)
    return [{{"ids": random.integers(0, 500, (8, size))}} for size in ({sizes})]

def calibration():
    return batches(1)

def evaluation():
    return batches(2)
"""


def network() -> onnx.ModelProto:
    """Rows of a table → two linear layers → mean over the sequence. One channel is an outlier."""
    random = np.random.default_rng(0)
    table = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    up = random.standard_normal((WIDTH, 64)).astype(np.float32) / 6
    down = random.standard_normal((64, CLASSES)).astype(np.float32) / 8
    up[:, 0] *= 60  # its activations set the scale of all others of "down"
    down[0] /= 60
    values = {"table": table, "up": up, "down": down, "axes": np.array([1])}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup"),
            helper.make_node("MatMul", ["rows", "up"], ["wide"], name="up_product"),
            helper.make_node("Relu", ["wide"], ["positive"], name="relu"),
            helper.make_node("MatMul", ["positive", "down"], ["narrow"], name="down_product"),
            helper.make_node("ReduceMean", ["narrow", "axes"], ["scores"], name="mean", keepdims=0),
        ],
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Bench:
    """Runs steps one after the other, each in a folder of its own."""

    def __init__(self, folder: Path, *, sizes: str = "12, 12, 12, 12") -> None:
        """Write the network and the recipe around it."""
        path = toy_recipe.write(
            folder / "recipe",
            data_code=DATA.format(sizes=sizes),
            model={
                "axes": {"sequence": {"max": 64, "example": 12}},
                "inputs": [{"name": "ids", "dtype": "int64", "dims": ["sequence"]}],
            },
        )
        self.folder = folder
        self.recipe = recipes.load(path)
        self.source = Source(path.parent)
        self.data = RecipeData(self.recipe, self.source)
        self.told: list[tuple[int, int]] = []
        onnx.save(network(), folder / "float.onnx")
        self.start = Artifact(form=Form.ONNX, path=folder / "float.onnx", facts={"opset": 20})

    def run(self, *steps, artifact: Artifact | None = None) -> Artifact:
        """The artifact after these steps of a recipe."""
        result = artifact or self.start
        for spec in steps:
            number = len(list(self.folder.iterdir()))
            made, scratch = (self.folder / f"{number}{kind}" for kind in ("made", "scratch"))
            made.mkdir()
            scratch.mkdir()
            context = Context(
                recipe=self.recipe,
                folder=made,
                scratch=scratch,
                original=None,  # type: ignore[arg-type]  # no step on ONNX asks for it
                data=self.data,
                source=self.source,
                tell=lambda done, total, note="": self.told.append((done, total)),
            )
            result = StepSpec.model_validate(spec).step.run(result, context)
        return result

    def outputs(self, artifact: Artifact):
        """What the file gives for the evaluation data."""
        session = Session(artifact.file, threads=1)
        return [session.run(batch) for batch in self.data.evaluation()]

    def cosine(self, artifact: Artifact) -> float:
        """Agreement with the float network."""
        return parity.compare(self.outputs(self.start), self.outputs(artifact)).cosine


@pytest.fixture
def bench(tmp_path):
    """The network, nothing run yet."""
    return Bench(tmp_path)


def zero_points(artifact: Artifact, op_type: str) -> set[tuple[str, int]]:
    """Dtype and largest value of the zero points of these nodes' activations."""
    proto = onnx.load(artifact.file)
    constants = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    found = [
        constants[node.input[2]]
        for node in proto.graph.node
        if node.op_type == op_type and node.input[0] not in constants
    ]
    return {(zero.dtype.name, int(zero.max())) for zero in found}


def static(**options):
    """A static step; options as in a recipe."""
    return {"quantize": {"method": "static_qdq", "op_types": ["MatMul"], **options}}


SMOOTH = {"quantize": {"method": "smoothquant"}}
