"""Ensembles of ``conch export`` on a real Triton: text and images in, labels out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from export import publish
from serving.client import InferenceFailed, TritonClient
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer
from tests.integration.toy_ensembles import (
    IMAGE,
    QUADRANTS,
    TEXT,
    a_picture,
    folder,
    publications,
    strings,
)

__all__ = ["folder"]


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
