"""What serving costs: Triton with our ONNX Runtime backend against the bare session, paired.

Both run the same model on the same inputs with the same threads. The bare session runs in this
process in a closed loop. Triton has one instance, is asked over gRPC by a few clients of this
process (closed loop, so that the instance always has the next request waiting), and shares the
machine with them. Windows of both alternate, so that a noisy neighbour hits both; the figure is
the median of the ratios of neighbouring windows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from conch import loopback
from conch.errors import ConfigError, LoadError
from serving import model_config
from serving.model_config import ModelConfig
from serving.probe import synthetic_inputs
from serving.runtime.supervisor import TritonServer

NAME = "bench"
_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendBench:
    """The two throughputs and their ratio.

    Attributes:
        ratio: Triton over bare session, median over the rounds.
        ratios: one a round.
        bare_rps: inferences a second of the bare session (a batch of 8 counts 8), median.
        triton_rps: the same through Triton.
        difference_max: largest difference between an output of the two, on the same inputs.
    """

    model: str
    batch_size: int
    tokens: int
    threads: int
    clients: int
    cores: int
    triton_version: str
    window_s: float
    ratio: float
    ratios: tuple[float, ...]
    bare_rps: float
    triton_rps: float
    difference_max: float


def bench_backend(
    model: Path,
    *,
    batch_size: int = 8,
    tokens: int = 128,
    threads: int = 1,
    clients: int = 2,
    rounds: int = 5,
    window_s: float = 3.0,
    on_round: Callable[[int, float], None] | None = None,
) -> BackendBench:
    """Measure one ONNX file; takes about ``rounds * 2 * window_s`` seconds and a server's start.

    Args:
        model: the ONNX file; each input's and output's first axis is the batch.
        batch_size: of each request.
        tokens: what every other variable axis becomes.
        threads: intra-op threads of either session.
        clients: requests kept in flight.
        rounds: pairs of windows.
        window_s: length of each window, seconds.
        on_round: told the round's number (from 1) and its ratio.

    Raises:
        ConfigError: when the file is no model this can be done with.
        LoadError: when a request fails.
    """
    session = _session(model, threads)
    config = config_of(session, batch_size=batch_size, threads=threads)
    sizes = {tensor.name: tokens for tensor in config.input}
    inputs = synthetic_inputs(config, sizes=sizes, batch_size=batch_size)
    feed = {name: _for_onnx(array) for name, array in inputs.items()}
    pairs: list[tuple[float, float]] = []
    with (
        _serving(model, config) as server,
        _Clients(server.endpoint.grpc_url, inputs, clients) as load,
    ):
        names = [output.name for output in config.output]
        expected = dict(zip(names, session.run(names, feed), strict=True))
        difference = _difference(load.one(), expected)
        for number in range(1, rounds + 1):
            bare = _bare_rate(session, feed, window_s)
            through = load.rate(window_s)
            pairs.append((bare * batch_size, through * batch_size))
            if on_round:
                on_round(number, through / bare)
        version = server.binary.version
    ratios = tuple(through / bare for bare, through in pairs)
    return BackendBench(
        model=str(model),
        batch_size=batch_size,
        tokens=tokens,
        threads=threads,
        clients=clients,
        cores=len(os.sched_getaffinity(0)),
        triton_version=version,
        window_s=window_s,
        ratio=statistics.median(ratios),
        ratios=ratios,
        bare_rps=statistics.median(bare for bare, _ in pairs),
        triton_rps=statistics.median(through for _, through in pairs),
        difference_max=difference,
    )


@contextlib.contextmanager
def _serving(model: Path, config: ModelConfig) -> Iterator[TritonServer]:
    """A Triton that serves this one model from a temporary repository."""
    with tempfile.TemporaryDirectory(prefix="conch-bench-") as folder:
        repository = Path(folder) / "models"
        _publish(repository, model, config)
        with TritonServer(
            repository, name="bench", log_path=Path(folder) / "triton.log", restart=False
        ) as server:
            for served in server.models:
                if not served.ready:
                    raise LoadError(f"{model}: Triton did not load it ({served.reason}).")
            yield server


def config_of(session: Any, *, batch_size: int, threads: int) -> ModelConfig:
    """A config for the session's graph: one CPU instance, no dynamic batching.

    Raises:
        ConfigError: when an input or output has a type or a first axis that does not fit.
    """
    config = ModelConfig(name=NAME, backend="onnxruntime", max_batch_size=batch_size)
    for nodes, tensors in (
        (session.get_inputs(), config.input),
        (session.get_outputs(), config.output),
    ):
        for node in nodes:
            if node.type not in _TYPES or not node.shape or isinstance(node.shape[0], int):
                raise ConfigError(
                    f"{node.name}: {node.type} {node.shape}, needs a variable batch axis first.",
                    hint="Export the model with a dynamic batch axis.",
                )
            dims = [dim if isinstance(dim, int) else -1 for dim in node.shape[1:]]
            tensors.add(name=node.name, data_type=DataType.Value(_TYPES[node.type]), dims=dims)
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_CPU)
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    return config


class _Clients:
    """A few closed-loop gRPC clients that send one and the same prepared request."""

    def __init__(self, grpc_url: str, inputs: Mapping[str, NDArray[Any]], count: int) -> None:
        options = [  # these replace the client's own, which lift the limits, too
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            *loopback.grpc_options(grpc_url),
        ]
        self._clients = [
            triton.InferenceServerClient(grpc_url, channel_args=options) for _ in range(count)
        ]
        self._tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            self._tensors.append(tensor)

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def one(self) -> dict[str, NDArray[Any]]:
        """The outputs of one request."""
        result = self._clients[0].infer(NAME, self._tensors)
        return {out.name: result.as_numpy(out.name) for out in result.get_response().outputs}

    def rate(self, window_s: float) -> float:
        """Requests a second, up to the answer of the last one that was sent within the window.

        The instance is busy until that answer, so nothing of the window is lost at its edge.
        """
        ends_s: list[float] = []
        errors: list[str] = []
        start_s = time.perf_counter()

        def drive(client: Any) -> None:
            try:
                while time.perf_counter() < start_s + window_s:
                    client.infer(NAME, self._tensors)
                    ends_s.append(time.perf_counter())
            except InferenceServerException as error:
                errors.append(str(error))

        threads = [threading.Thread(target=drive, args=(client,)) for client in self._clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise LoadError(f"benchmark: a request failed ({errors[0]}).")
        return len(ends_s) / (max(ends_s) - start_s)


def _bare_rate(session: Any, feed: Mapping[str, NDArray[Any]], window_s: float) -> float:
    """Runs a second of the bare session."""
    start_s = time.perf_counter()
    count = 0
    while (elapsed_s := time.perf_counter() - start_s) < window_s:
        session.run(None, feed)
        count += 1
    return count / elapsed_s


def _session(model: Path, threads: int) -> Any:
    """The bare session, with the settings that our backend gives its own."""
    import onnxruntime

    if not model.is_file():
        raise ConfigError(
            f"{model}: no such ONNX file.", hint="Export one: conch export run RECIPE"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _publish(repository: Path, model: Path, config: ModelConfig) -> None:
    """A repository with this one model, and its external data if it has any."""
    version = repository / NAME / "1"
    version.mkdir(parents=True)
    shutil.copyfile(model, version / "model.onnx")
    for extra in model.parent.glob(f"{model.name}.data"):
        shutil.copyfile(extra, version / extra.name)
    (repository / NAME / "config.pbtxt").write_text(model_config.to_text(config), encoding="utf-8")


def _for_onnx(array: NDArray[Any]) -> NDArray[Any]:
    """Triton's bytes as the str that the bare session takes."""
    if array.dtype != np.object_:
        return array
    decoded: NDArray[Any] = np.vectorize(bytes.decode, otypes=[np.object_])(array)
    return decoded


def _difference(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    """The largest absolute difference over all numeric outputs."""
    return max(
        float(np.max(np.abs(one[name].astype(np.float64) - other[name].astype(np.float64))))
        for name in other
        if other[name].dtype != np.object_
    )
