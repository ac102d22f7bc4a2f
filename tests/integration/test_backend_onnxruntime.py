"""The ONNX Runtime backend inside a real Triton, on repositories in the C++ backend's terms."""

from __future__ import annotations

import os
import queue
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import helper
from tritonclient.utils import np_to_triton_dtype

from serving.client import InferenceFailed, TritonClient
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer
from tests.integration.onnx_models import Port, publish, publish_double

WAIT_200_MS = "dynamic_batching { max_queue_delay_microseconds: 200000 }"
FOUR = "reshape { shape: [4] }"
NUMPY_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def fill(root: Path) -> None:
    """Every model of this module."""
    kinds = [*NUMPY_TYPES, "STRING"]
    publish(
        root,
        "identity",
        inputs=[Port(name=f"in_{kind}", kind=kind) for kind in kinds],
        outputs=[Port(name=f"out_{kind}", kind=kind) for kind in kinds],
        nodes=[helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in kinds],
        config="dynamic_batching { max_queue_delay_microseconds: 200000 }",
    )
    publish(
        root,
        "unbatched",
        inputs=[Port(name="x", dims=(-1,))],
        outputs=[Port(name="y", dims=(-1,))],
        nodes=[helper.make_node("Add", ["x", "x"], ["y"])],
        max_batch_size=0,
        config='default_model_filename: "other.onnx"',
        filename="other.onnx",
    )
    publish(
        root,
        "add_sub",
        inputs=[Port(name="a"), Port(name="b")],
        outputs=[Port(name="sum"), Port(name="difference")],
        nodes=[
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        config=WAIT_200_MS,
    )
    publish(
        root,
        "lookup",
        inputs=[Port(name="row", kind="INT64", dims=(1,))],
        outputs=[Port(name="value", dims=(1,))],
        nodes=[helper.make_node("Gather", ["table", "row"], ["value"])],
        constants={"table": np.arange(10, dtype=np.float32) * 10},
        config=WAIT_200_MS,
    )
    publish(
        root,
        "ragged",
        inputs=[Port(name="x", dims=(-1,), settings="allow_ragged_batch: true")],
        outputs=[Port(name="total", dims=(1,))],
        nodes=[helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1)],
        constants={"axes": np.array([1], dtype=np.int64)},
        config=WAIT_200_MS,
    )
    publish(
        root,
        "reshaped",
        inputs=[Port(name="x", dims=(2, 2), settings=FOUR, graph_dims=(4,))],
        outputs=[Port(name="y", dims=(2, 2), settings=FOUR, graph_dims=(4,))],
        nodes=[helper.make_node("Add", ["x", "x"], ["y"])],
    )
    fill_threads(root)
    fill_broken(root)


def fill_threads(root: Path) -> None:
    """Models that differ in their session's settings."""
    publish_double(root, "threads_default")
    publish_double(
        root, "threads_two_instances", config="instance_group [ { count: 2 kind: KIND_CPU } ]"
    )
    publish_double(
        root,
        "threads_set",
        config="""
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
parameters { key: "inter_op_thread_count" value { string_value: "2" } }
parameters { key: "execution_mode" value { string_value: "1" } }
optimization { graph { level: 1 } }""",
    )


def fill_broken(root: Path) -> None:
    """Models that must not load, each with its reason."""
    publish_double(root, "corrupted")
    model = root / "corrupted" / "1" / "model.onnx"
    model.write_bytes(b"\x08\x0aThis is no ONNX file" + bytes(100))
    publish_double(root, "misnamed")
    config = root / "misnamed" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "y"', 'name: "logits"'))
    publish_double(root, "mistyped")
    config = root / "mistyped" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP64"))
    publish(
        root,
        "bfloat",
        inputs=[Port(name="x", kind="BF16")],
        outputs=[Port(name="y", kind="BF16")],
        nodes=[helper.make_node("Identity", ["x"], ["y"])],
    )
    publish_double(root, "no_file")
    (root / "no_file" / "1" / "model.onnx").rename(root / "no_file" / "1" / "model.txt")
    publish_double(
        root,
        "bad_threads",
        config='parameters { key: "intra_op_thread_count" value { string_value: "many" } }',
    )


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> TritonServer:
    """One Triton with all the models."""
    root = tmp_path_factory.mktemp("repository")
    fill(root)
    return start_server(root)


def send_together(
    server: TritonServer, model: str, requests: list[dict[str, np.ndarray]], **settings: Any
) -> list[Any]:
    """Send requests at once, so that the queue delay makes one batch of them; results or errors."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.endpoint.grpc_url) as raw:
        for number, inputs in enumerate(requests):
            tensors = []
            for name, value in inputs.items():
                tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
                tensor.set_data_from_numpy(value)
                tensors.append(tensor)
            raw.async_infer(
                model,
                tensors,
                lambda result, error, number=number: answers.put((number, error or result)),
                client_timeout=20,
                **settings,
            )
        got = dict(answers.get(timeout=30) for _ in requests)
    return [got[number] for number in range(len(requests))]


def executions(client: TritonClient, model: str) -> tuple[int, int]:
    """Inferences and executed batches so far; Triton counts only after it has answered."""
    seen = client.statistics(model)
    while True:
        time.sleep(0.05)
        before, seen = seen, client.statistics(model)
        if seen == before:
            return seen.inference_count, seen.execution_count


def every_type(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Random values of every type, extremes included."""
    random = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for kind, dtype in NUMPY_TYPES.items():
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            array = random.integers(limits.min, limits.max, (rows, 4), dtype, endpoint=True)
            array[0, 0], array[0, 1] = limits.min, limits.max
        else:
            array = (random.normal(size=(rows, 4)) * 100).astype(dtype)
        values[f"in_{kind}"] = array
    words = np.array([["", "a", "Grüße, Τρίτων", "x" * 5000]] * rows, dtype=np.object_)
    words[:, 1] = [f"row {number}" for number in range(rows)]
    values["in_STRING"] = np.vectorize(str.encode, otypes=[np.object_])(words)
    return values


@pytest.mark.parametrize("rows", [1, 5])
def test_backend_returns_every_type_unchanged(client: TritonClient, rows: int) -> None:
    """Each numpy type and strings come back bit by bit, for one row and for several."""
    sent = every_type(rows, seed=rows)
    got = client.infer("identity", sent)
    for name, value in sent.items():
        answer = got[name.replace("in_", "out_")]
        assert answer.dtype == value.dtype
        np.testing.assert_array_equal(value, answer)


def test_backend_keeps_every_type_apart_when_requests_are_batched(
    server: TritonServer, client: TritonClient
) -> None:
    """Requests of different sizes run as one batch, and each gets its own rows back."""
    before = executions(client, "identity")
    sent = [every_type(rows, seed=rows) for rows in (1, 3, 2)]
    results = send_together(server, "identity", sent)
    for value, result in zip(sent, results, strict=True):
        for name in value:
            answer = result.as_numpy(name.replace("in_", "out_"))
            np.testing.assert_array_equal(value[name], answer)
    after = executions(client, "identity")
    assert after[0] - before[0] == 6
    assert after[1] - before[1] < 3


def test_backend_runs_a_model_without_batch_axis(client: TritonClient) -> None:
    """max_batch_size 0 and another file name: any length, even none."""
    for length in (1, 7):
        x = np.arange(length, dtype=np.float32)
        np.testing.assert_array_equal(2 * x, client.infer("unbatched", {"x": x})["y"])


def test_backend_executes_fewer_batches_than_requests(
    server: TritonServer, client: TritonClient
) -> None:
    """Dynamic batching really batches: 8 requests at once need fewer executions."""
    before = executions(client, "add_sub")
    sent = [
        {"a": np.full((1, 4), i, np.float32), "b": np.ones((1, 4), np.float32)} for i in range(8)
    ]
    results = send_together(server, "add_sub", sent)
    for number, result in enumerate(results):
        np.testing.assert_array_equal(np.full((1, 4), number + 1), result.as_numpy("sum"))
        np.testing.assert_array_equal(np.full((1, 4), number - 1), result.as_numpy("difference"))
    after = executions(client, "add_sub")
    assert after[0] - before[0] == 8
    assert after[1] - before[1] <= 3


def test_backend_returns_only_the_requested_outputs(server: TritonServer) -> None:
    """A request that names one output gets that one, alone and in a batch with others."""
    one = {"a": np.full((1, 4), 3, np.float32), "b": np.ones((1, 4), np.float32)}
    asked = [triton.InferRequestedOutput("difference")]
    for count in (1, 3):
        for result in send_together(server, "add_sub", [one] * count, outputs=asked):
            assert [out.name for out in result.get_response().outputs] == ["difference"]
            np.testing.assert_array_equal(np.full((1, 4), 2), result.as_numpy("difference"))


def test_backend_fails_only_the_bad_request_of_a_batch(
    server: TritonServer, client: TritonClient
) -> None:
    """One row out of range: its sender gets the reason, the others their answers."""
    before = executions(client, "lookup")
    sent = [{"row": np.array([[row]], dtype=np.int64)} for row in (1, 99, 3, 4)]
    results = send_together(server, "lookup", sent)
    assert "out of data bounds" in str(results[1])
    for number, expected in ((0, 10), (2, 30), (3, 40)):
        np.testing.assert_array_equal([[expected]], results[number].as_numpy("value"))
    assert executions(client, "lookup")[1] - before[1] < 4


def test_backend_groups_requests_of_unequal_shape(
    server: TritonServer, client: TritonClient
) -> None:
    """A ragged batch is run by shape; each request gets its own sum."""
    before = executions(client, "ragged")
    sent = [{"x": np.ones((1, length), dtype=np.float32)} for length in (3, 5, 3, 7)]
    results = send_together(server, "ragged", sent)
    sums = [float(result.as_numpy("total")[0, 0]) for result in results]
    assert sums == [3, 5, 3, 7]
    assert executions(client, "ragged")[1] - before[1] < 4


def test_backend_honours_reshape(client: TritonClient) -> None:
    """The graph sees four numbers, the client a 2 x 2 matrix."""
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_array_equal(2 * x, client.infer("reshaped", {"x": x})["y"])


def test_backend_refuses_bytes_that_are_no_text(client: TritonClient) -> None:
    """ONNX strings are UTF-8: other bytes are the sender's error, and say so."""
    sent = every_type(1, seed=0)
    sent["in_STRING"][0, 2] = b"\xff\xfe"
    with pytest.raises(InferenceFailed, match=r"in_STRING.*not UTF-8"):
        client.infer("identity", sent)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("corrupted", "model.onnx: not loaded"),
        ("misnamed", "output 'logits': not in the graph, its outputs are y"),
        ("mistyped", "TYPE_FP64 in the config, tensor(float) in the graph"),
        ("bfloat", "TYPE_BF16 is not supported"),
        ("no_file", "there is no such file"),
        ("bad_threads", "'many', must be a whole number"),
    ],
)
def test_backend_says_why_a_model_does_not_load(
    server: TritonServer, client: TritonClient, model: str, reason: str
) -> None:
    """A broken model fails alone, with its reason; the others are served."""
    found = {entry.name: entry for entry in server.models}
    assert not found[model].ready
    assert reason in found[model].reason
    assert found["add_sub"].ready


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("threads_default", "{cores} intra-op threads, 1 inter-op threads, ORT_SEQUENTIAL"),
        ("threads_two_instances", "{half} intra-op threads, 1 inter-op threads, ORT_SEQUENTIAL"),
        ("threads_set", "3 intra-op threads, 2 inter-op threads, ORT_PARALLEL"),
    ],
)
def test_backend_takes_threads_from_the_config_else_from_the_cores(
    server: TritonServer, model: str, expected: str
) -> None:
    """The log of each instance names its threads: cores / instances where the config is silent."""
    cores = len(os.sched_getaffinity(0))
    wanted = expected.format(cores=cores, half=max(1, cores // 2))
    lines = [line for line in server.log_path.read_text().splitlines() if f" of {model} " in line]
    assert lines
    assert all(wanted in line for line in lines)
