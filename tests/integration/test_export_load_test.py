"""The load test of ``conch export``, and versions that are switched, on a real Triton."""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import publish, trial
from serving import model_config
from serving.repository import Repository
from tests.integration.conftest import StartServer
from tests.integration.toy_ensembles import (
    IMAGE,
    TEXT,
    a_picture,
    folder,
    publications,
    save,
    strings,
)

__all__ = ["folder"]


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
    """Two variants as versions of one model: neither new numbers nor a switch fails a request."""
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
    where, *around = given
    old = model_config.with_versions(where.config, [1])  # in the recipe's order, the best lowest
    labels = where.model_files
    assert repository.publish_versions("where", old, where.versions, model_files=labels) == [1, 2]
    assert [publish.put(repository, one) for one in around] == [[1], [1]]
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
        time.sleep(0.3)
        assert publish.put(repository, where) == [3, 2]
        client.load("where")
        for served in ([2], [3], [2]):
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
