"""Two recipes with ensembles of text and image, and the small graphs that they publish."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from export import ensembles, publish
from export import recipe as recipes
from export.steps import Artifact, Form

WORDS = ["[PAD]", "[UNK]", "[CLS]", "one", "two", "three", "four"]
QUADRANTS = ["upper left", "upper right", "lower left", "lower right"]
TEXT: dict[str, Any] = {
    "version": 1,
    "model": {
        "name": "adder",
        "factory": "model.py:load",
        "axes": {"length": {"min": 1, "max": 8, "example": 4}},
        "inputs": [
            {"name": "input_ids", "dtype": "int64", "dims": ["length"]},
            {"name": "attention_mask", "dtype": "int64", "dims": ["length"]},
        ],
        "outputs": [{"name": "told", "dtype": "float32", "dims": [3]}],
    },
    "variants": [{"name": "fp32", "steps": ["to_onnx"]}],
    "gates": {"fidelity": None},
    "serving": {"max_batch_size": 4, "threads": 1, "response_cache": True, "priority_levels": 2},
    "ensembles": [
        {
            "name": "words",
            "model": "fp32",
            "text": {"tokenizer": "tokenizer.json", "max_tokens": 8, "pad_to": [4, 8]},
        },
        {
            "name": "cut",
            "model": "fp32",
            "text": {
                "tokenizer": "tokenizer.json",
                "max_tokens": 4,
                "pad_to": [4],
                "truncate": True,
            },
        },
    ],
}
IMAGE: dict[str, Any] = {
    "version": 1,
    "model": {
        "name": "where",
        "factory": "model.py:load",
        "inputs": [{"name": "pixels", "dtype": "float32", "dims": [1, 8, 8]}],
        "outputs": [{"name": "scores", "dtype": "float32", "dims": [4]}],
    },
    "variants": [{"name": "fp32", "steps": ["to_onnx"]}],
    "gates": {"fidelity": None},
    "serving": {"max_batch_size": 4, "threads": 1, "labels": "quadrants.txt"},
    "ensembles": [
        {
            "name": "look",
            "model": "fp32",
            "image": {},
            "labels": {"file": "quadrants.txt", "top": 2, "softmax": False},
        },
        {"name": "strict", "model": "fp32", "image": {"resize": "refuse", "mean": [0.5]}},
        {"name": "middle", "model": "fp32", "image": {"resize": "crop", "max_pixels": 1000}},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes' folder: tokenizer, labels and built models."""
    root = tmp_path_factory.mktemp("recipes")
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    tokenizer.save(str(root / "tokenizer.json"))
    (root / "quadrants.txt").write_text("\n".join(QUADRANTS) + "\n")
    save_adder(root / "adder.onnx")
    save_quadrants(root / "where.onnx")
    return root


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    **constants: np.ndarray[Any, Any],
) -> None:
    """A small graph."""
    known = [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [output], known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def save_adder(path: Path) -> None:
    """Sum of the real ids, their number, and the padded length; float32 ``[batch, 3]``."""
    node = helper.make_node
    save(
        path,
        [
            node("Mul", ["input_ids", "attention_mask"], ["real"]),
            node("Mul", ["attention_mask", "zero"], ["nothing"]),
            node("Add", ["nothing", "one"], ["all"]),
            node("ReduceSum", ["real", "last"], ["sum"]),
            node("ReduceSum", ["attention_mask", "last"], ["count"]),
            node("ReduceSum", ["all", "last"], ["width"]),
            node("Concat", ["sum", "count", "width"], ["whole"], axis=1),
            node("Cast", ["whole"], ["told"], to=TensorProto.FLOAT),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        helper.make_tensor_value_info("told", TensorProto.FLOAT, ["batch", 3]),
        zero=np.array(0, dtype=np.int64),
        one=np.array(1, dtype=np.int64),
        last=np.array([1], dtype=np.int64),
    )


def save_quadrants(path: Path) -> None:
    """The mean of each quadrant of an 8 x 8 image."""
    weights = np.zeros((8, 8, 4), dtype=np.float32)
    for index, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        weights[row : row + 4, column : column + 4, index] = 1 / 16
    save(
        path,
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]),
        weights=weights.reshape(64, 4),
    )


def publications(
    written: dict[str, Any], folder: Path, *files: str
) -> tuple[list[publish.Publication], recipes.Recipe]:
    """What the recipe publishes when its variants, in order, were built into these files."""
    recipe = recipes.loads(yaml.safe_dump(written))
    accepted = [
        publish.Accepted(
            variant=variant,
            artifact=Artifact(form=Form.ONNX, path=folder / file),
            lineage={"variant": variant.name},
        )
        for variant, file in zip(recipe.variants, files, strict=True)
    ]
    found = publish.variants(recipe, folder, accepted)
    names = {variant: one.name for one in found for variant in one.variants}
    return [*found, *ensembles.publications(recipe, folder, names)], recipe


def strings(*items: bytes) -> np.ndarray[Any, Any]:
    """A column of strings, ``[batch, 1]``."""
    return np.array([[item] for item in items], dtype=np.object_)


def a_picture(size: int, *, bright: int, kind: str = "PNG", mode: str = "L") -> bytes:
    """A black image with one bright quadrant."""
    pixels = np.zeros((size, size), dtype=np.uint8)
    half = size // 2
    row, column = divmod(bright, 2)
    pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()
