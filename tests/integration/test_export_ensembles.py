"""Ensembles, versions and the load test of ``conch export`` on a real Triton."""

from __future__ import annotations

import copy
import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
import yaml
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from export import ensembles, publish, trial
from export import recipe as recipes
from export.steps import Artifact, Form
from serving import model_config
from serving.client import InferenceFailed, TritonClient
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer

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


@pytest.fixture(scope="module")
def server(
    folder: Path, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    """One Triton with both recipes published."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    for written, file in ((TEXT, "adder.onnx"), (IMAGE, "where.onnx")):
        for one in publications(written, folder, file)[0]:
            publish.put(repository, one)
    return start_server(repository.root, cache_bytes=2**20)


@pytest.fixture(scope="module")
def client(server: TritonServer, connect: Any) -> TritonClient:
    """A client of it."""
    found: TritonClient = connect(server)
    return found


def strings(*items: bytes) -> np.ndarray[Any, Any]:
    """A column of strings, ``[batch, 1]``."""
    return np.array([[item] for item in items], dtype=np.object_)


def test_every_part_is_ready_for_a_health_check(server: TritonServer) -> None:
    """Also those that answer nothing but an image."""
    assert {model.name: model.reason for model in server.models if not model.ready} == {}
    assert {"words", "look", "look_pixels", "look_labels"} <= {m.name for m in server.models}


def test_text_is_tokenized_and_padded_to_the_next_length(client: TritonClient) -> None:
    """[CLS] is 2; unknown words are 1; the longest text of a request decides its length."""
    got = client.infer("words", {"text": strings(b"one two", b"three")})["told"]
    assert got.tolist() == [[2 + 3 + 4, 3, 4], [2 + 5, 2, 4]]
    got = client.infer("words", {"text": strings(b"one two", b"one nine three four")})["told"]
    assert got.tolist() == [[9, 3, 8], [2 + 3 + 1 + 5 + 6, 5, 8]]


def test_text_may_be_cut_where_the_recipe_says_so(client: TritonClient) -> None:
    """``truncate: true``."""
    got = client.infer("cut", {"text": strings(b"one one one one one one")})["told"]
    assert got.tolist() == [[2 + 3 * 3, 4, 4]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "text 0: empty"),
        (b" \n", "text 0: empty"),
        (b"\xff\xfe", "text 0: not UTF-8"),
        (b"one " * 8, "text 0: 9 tokens, at most 8 are allowed"),
    ],
)
def test_bad_text_is_refused_with_its_reason(
    client: TritonClient, text: bytes, reason: str
) -> None:
    """And the model goes on."""
    with pytest.raises(InferenceFailed, match=reason):
        client.infer("words", {"text": strings(text)})
    assert client.infer("words", {"text": strings(b"one")})["told"][0, 0] == 5


def a_picture(size: int, *, bright: int, kind: str = "PNG", mode: str = "L") -> bytes:
    """A black image with one bright quadrant."""
    pixels = np.zeros((size, size), dtype=np.uint8)
    half = size // 2
    row, column = divmod(bright, 2)
    pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("size", "mode"), [(8, "L"), (64, "RGB")])
def test_image_files_become_labels(client: TritonClient, kind: str, size: int, mode: str) -> None:
    """Any size, grey or colour, several in one request; the best two classes with scores."""
    files = [a_picture(size, bright=bright, kind=kind, mode=mode) for bright in (3, 0, 1)]
    got = client.infer("look", {"image": strings(*files)})
    assert [row[0].decode() for row in got["label"]] == [QUADRANTS[i] for i in (3, 0, 1)]
    assert got["score"].shape == (3, 2)
    np.testing.assert_allclose(got["score"][:, 0], 1, atol=0.1)


def test_pixels_are_normalised_as_the_recipe_says(client: TritonClient) -> None:
    """(value ÷ 255 − 0.5) ÷ 1; without labels the model's own output comes out."""
    got = client.infer("strict", {"image": strings(a_picture(8, bright=2))})["scores"]
    np.testing.assert_allclose(got, [[-0.5, -0.5, 0.5, -0.5]], atol=1e-6)


def test_the_middle_of_a_wide_image_is_cropped(client: TritonClient) -> None:
    """16 x 8: four columns go on each side."""
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, :4] = pixels[:, 12:] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    got = client.infer("middle", {"image": strings(buffer.getvalue())})["scores"]
    np.testing.assert_allclose(got, [[0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        ("look", b"this is no image", "image 0: no PNG or JPEG file"),
        ("look", b"", "image 0: no PNG or JPEG file"),
        ("look", a_picture(64, bright=0)[:70], "image 0: not decoded"),
        ("strict", a_picture(16, bright=0), "image 0: 16 x 16 pixels, must be 8 x 8"),
        ("middle", a_picture(64, bright=0), "image 0: 64 x 64 pixels, at most 1000"),
    ],
)
def test_bad_images_are_refused_with_their_reason(
    client: TritonClient, model: str, data: bytes, reason: str
) -> None:
    """And the model goes on."""
    with pytest.raises(InferenceFailed, match=reason):
        client.infer(model, {"image": strings(data)})
    assert client.infer(model, {"image": strings(a_picture(8, bright=0))})


def test_labels_file_answers_classification_requests(server: TritonServer) -> None:
    """``class_count`` of the official client: value, index and name."""
    pixels = triton.InferInput("pixels", [1, 1, 8, 8], "FP32")
    pixels.set_data_from_numpy(np.tri(8, dtype=np.float32)[None, None])
    asked = [triton.InferRequestedOutput("scores", class_count=1)]
    with triton.InferenceServerClient(server.endpoint.grpc_url) as raw:
        got = raw.infer("where_fp32", [pixels], outputs=asked).as_numpy("scores")
    assert got[0, 0].decode().endswith(":2:lower left")


def test_response_cache_answers_what_was_asked_before(server: TritonServer) -> None:
    """``response_cache: true`` in the recipe, and a server that has a cache."""
    sent = []
    for name in ("input_ids", "attention_mask"):
        tensor = triton.InferInput(name, [1, 5], "INT64")
        tensor.set_data_from_numpy(np.full((1, 5), 3, dtype=np.int64))
        sent.append(tensor)
    with triton.InferenceServerClient(server.endpoint.grpc_url) as raw:
        hits = []
        for _ in range(3):
            assert raw.infer("adder_fp32", sent, priority=1).as_numpy("told")[0, 0] == 45
            stats = raw.get_inference_statistics("adder_fp32").model_stats[0].inference_stats
            hits.append(stats.cache_hit.count)
    assert hits[2] - hits[0] == 2


def test_load_test_passes_what_is_right(folder: Path) -> None:
    """All models of a run in one start, ensembles among them."""
    for written, file in ((TEXT, "adder.onnx"), (IMAGE, "where.onnx")):
        given, recipe = publications(written, folder, file)
        assert trial.verify(given, recipe) == {}


def test_load_test_refuses_what_does_not_load_or_answers_otherwise(folder: Path) -> None:
    """One reason each; an ensemble falls with its variant, another variant stands."""
    written = copy.deepcopy(IMAGE)
    names = ("fp32", "random", "narrow", "good")
    written["variants"] = [{"name": name, "steps": ["to_onnx"]} for name in names]
    written["ensembles"] = [{"name": "look", "model": "random", "image": {}}]
    shape = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 8, 8])
    flat = helper.make_node("Flatten", ["pixels"], ["flat"])
    random = [
        flat,
        helper.make_node("MatMul", ["flat", "weights"], ["zeros"]),
        helper.make_node("RandomNormalLike", ["zeros"], ["scores"]),
    ]
    four = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])
    save(folder / "random.onnx", random, [shape], four, weights=np.ones((64, 4), np.float32))
    narrow = [flat, helper.make_node("MatMul", ["flat", "weights"], ["scores"])]
    three = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])
    save(folder / "narrow.onnx", narrow, [shape], three, weights=np.ones((64, 3), np.float32))
    (folder / "broken.onnx").write_bytes(b"no model")
    given, recipe = publications(
        written, folder, "broken.onnx", "random.onnx", "narrow.onnx", "where.onnx"
    )
    found = trial.verify(given, recipe)
    assert set(found) == {"where_fp32", "where_random", "where_narrow", "look", "look_pixels"}
    assert "Triton: where_fp32/1/model.onnx: not loaded" in found["where_fp32"]
    assert "output scores: differs by" in found["where_random"]
    assert "output scores: [1, 3], must be [batch, 4]" in found["where_narrow"]
    assert found["look"].startswith("needs where_random: ")


def test_quality_is_switched_in_place_between_versions(
    folder: Path, start_server: StartServer, connect: Any, tmp_path: Path
) -> None:
    """Two variants as versions of one model: rewriting version_policy fails no request."""
    written = copy.deepcopy(IMAGE)
    written["variants"] = [{"name": name, "steps": ["to_onnx"]} for name in ("full", "small")]
    written["serving"] |= {"layout": "versions"}
    written["ensembles"] = [{"name": "look", "model": "full", "image": {}}]
    content = onnx.load(str(folder / "where.onnx"))
    weights = onnx.numpy_helper.to_array(content.graph.initializer[0])
    content.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(2 * weights, "weights"))
    onnx.save(content, str(folder / "doubled.onnx"))
    # The last version is not the one that the ensemble names: each is tried against its own.
    given, recipe = publications(written, folder, "where.onnx", "doubled.onnx")
    assert [one.name for one in given] == ["where", "look_pixels", "look"]
    assert trial.verify(given, recipe) == {}
    with trial.serving(given) as tried:
        score = tried.infer("look", {"image": strings(a_picture(8, bright=0))})["scores"][0, 0]
    assert score == 1.0
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository")
    assert [publish.put(repository, one) for one in given] == [[1, 2], [1], [1]]
    client = connect(start_server(repository.root))
    image = {"image": strings(a_picture(8, bright=0))}
    seen: list[tuple[float, float]] = []
    failed: list[str] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                score = client.infer("look", image)["scores"][0, 0]
                seen.append((time.monotonic(), float(score)))
            except Exception as error:
                failed.append(str(error))

    sender = threading.Thread(target=load)
    sender.start()
    switches = []
    try:
        for served in ([2], [1], [2]):
            time.sleep(0.3)
            config = model_config.with_versions(repository.read_config("where"), served)
            repository.write_config("where", config, reason="test")
            client.load("where")
            switches.append(time.monotonic())
        # What the control loop does to a member must not break the ensemble either.
        repository.write_config("where", model_config.with_instances(config, 2), reason="test")
        client.load("where")
        config.dynamic_batching.max_queue_delay_microseconds = 3000
        repository.write_config("where", config, reason="test")
        client.load("where")
        time.sleep(0.3)
    finally:
        done.set()
        sender.join()
    assert failed == []
    assert {score for at, score in seen if at < switches[0] - 0.5} <= {1.0}
    assert [score for at, score in seen if at > switches[-1]][-1] == 2.0
    assert {score for _, score in seen} == {1.0, 2.0}
    assert client.infer("where", {"pixels": np.ones((1, 1, 8, 8), np.float32)})["scores"][0, 0] == 2
