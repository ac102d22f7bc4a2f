"""Models with state on a real Triton: each sequence keeps its own, however requests mix."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from onnx import helper

from export import config_pbtxt, trial
from export import recipe as recipes
from export.source import Source
from export.steps import resized
from serving.client import InferenceFailed, SequenceStep, TritonClient
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import StartServer
from tests.integration.onnx_models import Port, publish

VAD = Path(__file__).parents[2] / "examples" / "vad"

STATE = """
  state {{ input_name: "total_in" output_name: "total_out" data_type: TYPE_FP32 dims: [ 1 ]
    initial_state {{ name: "first" data_type: TYPE_FP32 dims: [ 1 ] {initial} }} }}"""
ZEROS = STATE.format(initial="zero_data: true")
OLDEST = """sequence_batching {{
  max_sequence_idle_microseconds: {idle_us}
  oldest {{ max_candidate_sequences: 8 max_queue_delay_microseconds: {delay_us} }}
  {state}
}}"""
DIRECT = (
    """sequence_batching {
  max_sequence_idle_microseconds: 5000000
  direct {}
  control_input { name: "START" control {
    kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  control_input { name: "READY" control {
    kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } }
  control_input { name: "ID" control {
    kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
"""
    + ZEROS
    + "\n}"
)


def publish_running_total(root: Path, name: str, batching: str) -> None:
    """``total_out = total_in + x``, which is also the answer; a row of x above 1e6 is refused."""
    publish(
        root,
        name,
        inputs=[Port(name="x", dims=(1,)), Port(name="total_in", dims=(1,))],
        outputs=[Port(name="total", dims=(1,)), Port(name="total_out", dims=(1,))],
        nodes=[
            helper.make_node("Cast", ["x"], ["row"], to=7),
            helper.make_node("Gather", ["table", "row"], ["checked"]),
            helper.make_node("Add", ["total_in", "checked"], ["total_out"]),
            helper.make_node("Identity", ["total_out"], ["total"]),
        ],
        constants={"table": np.arange(100, dtype=np.float32)},
        config=batching,
    )
    hide_state(root / name)


def hide_state(folder: Path) -> None:
    """Take the state's tensors out of the config's inputs and outputs: they are Triton's own."""
    lines = (folder / "config.pbtxt").read_text().splitlines()
    own = ('input { name: "total_in"', 'output { name: "total_out"',
           'input { name: "START"', 'input { name: "READY"', 'input { name: "ID"')  # fmt: skip
    (folder / "config.pbtxt").write_text(
        "\n".join(line for line in lines if not line.startswith(own))
    )


def fill(root: Path) -> None:
    """Every model of this module."""
    slow = OLDEST.format(idle_us=60_000_000, delay_us=200_000, state=ZEROS)
    publish_running_total(root, "totals", slow)
    brief = OLDEST.format(idle_us=300_000, delay_us=0, state=ZEROS)
    publish_running_total(root, "brief", brief)
    from_file = STATE.format(initial='data_file: "seven"')
    publish_running_total(
        root, "from_seven", OLDEST.format(idle_us=60_000_000, delay_us=0, state=from_file)
    )
    (root / "from_seven" / "initial_state").mkdir()
    (root / "from_seven" / "initial_state" / "seven").write_bytes(np.float32(7).tobytes())
    publish(
        root,
        "controlled",
        inputs=[Port(name="x", dims=(1,)), Port(name="total_in", dims=(1,)),
                Port(name="START", dims=(1,)), Port(name="READY", dims=(1,)),
                Port(name="ID", kind="UINT64", dims=(1,))],
        outputs=[Port(name="total", dims=(4,)), Port(name="total_out", dims=(1,))],
        nodes=[
            helper.make_node("Cast", ["ID"], ["id"], to=1),
            helper.make_node("Add", ["total_in", "x"], ["total_out"]),
            helper.make_node("Concat", ["total_out", "START", "READY", "id"], ["total"], axis=1),
        ],
        config=DIRECT,
    )  # fmt: skip
    hide_state(root / "controlled")
    broken = OLDEST.format(idle_us=1_000_000, delay_us=0, state=ZEROS.replace("total_in", "none"))
    publish_running_total(root, "broken", broken)


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> TritonServer:
    """One Triton with all the models."""
    root = tmp_path_factory.mktemp("repository")
    fill(root)
    return start_server(root)


def add(client: TritonClient, model: str, x: float, step: SequenceStep) -> np.ndarray[Any, Any]:
    """One request; gives the answer's row."""
    sent = np.array([[x]], dtype=np.float32)
    row: np.ndarray[Any, Any] = client.infer(model, {"x": sent}, step=step)["total"][0]
    return row


def test_interleaved_sequences_keep_their_own_totals(client: TritonClient) -> None:
    """Requests of three sequences in turn: each has the running total of its own numbers."""
    totals = dict.fromkeys((11, 12, 13), 0)
    for index in range(4):
        for sequence in totals:
            totals[sequence] += sequence + index
            step = SequenceStep(sequence=sequence, start=index == 0, end=index == 3)
            assert add(client, "totals", sequence + index, step)[0] == totals[sequence]


def test_sequences_run_in_batches_and_keep_their_own_states(
    server: TritonServer, client: TritonClient
) -> None:
    """Four sequences whose requests come together are run together."""
    before = client.statistics("totals")
    sequences = [21, 22, 23, 24]
    for index in range(3):
        answers = send_together(server, "totals", sequences, index=index, last=2)
        assert answers == [sum(sequence + i for i in range(index + 1)) for sequence in sequences]
    time.sleep(0.2)
    after = client.statistics("totals")
    assert after.inference_count - before.inference_count == 12
    assert after.execution_count - before.execution_count <= 6


def send_together(
    server: TritonServer, model: str, sequences: list[int], *, index: int, last: int
) -> list[float]:
    """One request for each sequence at once; the answers in their order."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.endpoint.grpc_url) as raw:
        for number in sequences:
            tensor = triton.InferInput("x", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.array([[number + index]], dtype=np.float32))
            raw.async_infer(
                model,
                [tensor],
                lambda result, error, number=number: answers.put((number, error or result)),
                sequence_id=number,
                sequence_start=index == 0,
                sequence_end=index == last,
                client_timeout=20,
            )
        got = dict(answers.get(timeout=30) for _ in sequences)
    return [float(got[number].as_numpy("total")[0, 0]) for number in sequences]


def test_a_started_sequence_begins_anew(client: TritonClient) -> None:
    """The same id, ended or not, starts from the initial state again."""
    for ended in (False, True):
        assert add(client, "totals", 5, SequenceStep(sequence=31, start=True))[0] == 5
        assert add(client, "totals", 5, SequenceStep(sequence=31, end=ended))[0] == 10
    assert add(client, "totals", 1, SequenceStep(sequence=31, start=True, end=True))[0] == 1


def test_a_failed_request_leaves_its_sequence_as_it_was(client: TritonClient) -> None:
    """The bad request gets the error; the next one goes on from before it."""
    assert add(client, "totals", 5, SequenceStep(sequence=41, start=True))[0] == 5
    with pytest.raises(InferenceFailed, match="out of data bounds"):
        add(client, "totals", 1000, SequenceStep(sequence=41))
    assert add(client, "totals", 2, SequenceStep(sequence=41, end=True))[0] == 7


@pytest.mark.parametrize("sequence", [0, 51])
def test_a_request_outside_a_sequence_is_refused(client: TritonClient, sequence: int) -> None:
    """Triton itself wants an id, and a start before anything else."""
    with pytest.raises(InferenceFailed, match=r"correlation ID|START"):
        add(client, "totals", 5, SequenceStep(sequence=sequence))


def test_an_idle_sequence_is_forgotten(client: TritonClient) -> None:
    """After the idle time Triton wants a new start."""
    assert add(client, "brief", 5, SequenceStep(sequence=61, start=True))[0] == 5
    time.sleep(1.0)
    with pytest.raises(InferenceFailed, match="START"):
        add(client, "brief", 5, SequenceStep(sequence=61))


def test_a_sequence_may_start_from_a_file(client: TritonClient) -> None:
    """``initial_state`` with ``data_file``."""
    assert add(client, "from_seven", 5, SequenceStep(sequence=71, start=True))[0] == 12
    assert add(client, "from_seven", 5, SequenceStep(sequence=71, end=True))[0] == 17


def test_controls_reach_the_graph(client: TritonClient) -> None:
    """Direct strategy: total, START, READY and the correlation id, two sequences in turn."""
    assert add(client, "controlled", 5, SequenceStep(sequence=81, start=True)).tolist() == [
        5, 1, 1, 81,
    ]  # fmt: skip
    assert add(client, "controlled", 6, SequenceStep(sequence=82, start=True)).tolist() == [
        6, 1, 1, 82,
    ]  # fmt: skip
    assert add(client, "controlled", 5, SequenceStep(sequence=81, end=True)).tolist() == [
        10, 0, 1, 81,
    ]  # fmt: skip
    assert add(client, "controlled", 6, SequenceStep(sequence=82, end=True)).tolist() == [
        12, 0, 1, 82,
    ]  # fmt: skip


def test_a_state_that_the_graph_lacks_is_a_load_error(server: TritonServer) -> None:
    """With the name, and the names there are; the others are served."""
    found = {model.name: model for model in server.models}
    assert "input 'none': not in the graph" in found["broken"].reason
    assert found["totals"].ready


def test_speech_is_found_as_by_the_package_itself(tmp_path: Path) -> None:
    """Two streams in turn through Triton give what silero-vad's own ONNX file gives each alone."""
    recipe = recipes.load(VAD / "recipe.yaml")
    original = Source(VAD).call("model.py:load", key="model.factory", seed=0)
    file = exported(original, recipe, tmp_path)
    streams = {1: hum(seed=1), 2: hum(seed=2)}
    config = config_pbtxt.triton_config(recipe, "vad")
    got: dict[int, list[float]] = {1: [], 2: []}
    with trial.serving({"vad": trial.Model(config=config, files=[file])}) as served:
        for index in range(len(streams[1])):
            for sequence, audio in streams.items():
                step = SequenceStep(sequence=sequence, start=index == 0)
                answer = served.infer("vad", {"audio": audio[index : index + 1]}, step=step)
                got[sequence].append(float(answer["speech"][0, 0]))
    for sequence, audio in streams.items():
        np.testing.assert_allclose(got[sequence], by_the_package(audio), atol=1e-5)
    assert abs(np.subtract(got[1], got[2])).max() > 0.01


def hum(*, seed: int) -> np.ndarray[Any, Any]:
    """A tone with harmonics that comes and goes, and noise: what the model half takes for voice."""
    random = np.random.default_rng(seed)
    seconds = np.arange(20 * 512) / 16_000
    tone = sum(np.sin(2 * np.pi * 140 * n * seconds) / n for n in range(1, 12))
    audio = tone * (1 + np.sin(2 * np.pi * (3 + seed) * seconds)) * 0.05
    audio += random.normal(size=len(seconds)) * 0.002
    return audio.astype(np.float32).reshape(-1, 512)


def by_the_package(audio: np.ndarray[Any, Any]) -> list[float]:
    """What ``silero_vad.utils_vad.OnnxWrapper`` computes, call by call."""
    folder = Source(VAD).call("model.py:weights_folder", key="weights", seed=0)
    session = ort.InferenceSession(str(folder / "silero_vad.onnx"))
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    told = []
    for piece in audio:
        samples = np.concatenate([context, piece[None]], axis=1)
        feed = {"input": samples, "state": state, "sr": np.array(16_000)}
        speech, state = session.run(None, feed)
        context = samples[:, -64:]
        told.append(float(speech[0, 0]))
    return told


def exported(module: Any, recipe: recipes.Recipe, folder: Path) -> Path:
    """The module as an ONNX file with a batch axis."""
    import torch

    dims = {tensor.name: tensor.dims for tensor in recipe.model.inputs}
    zeros = {name: np.zeros((1, *own), dtype=np.float32) for name, own in dims.items()}
    batch = torch.export.Dim("batch", min=1, max=16)
    path = folder / "model.onnx"
    torch.onnx.export(
        module,
        tuple(torch.from_numpy(a) for a in resized(zeros, dims, {"batch": 2}).values()),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=tuple({0: batch} for _ in dims),
        input_names=list(dims),
        output_names=[tensor.name for tensor in recipe.model.outputs],
    )
    return path
