"""ONNX Runtime as a Python-based Triton backend, for Tritons that lack the C++ one.

Runs the repositories written for NVIDIA's C++ onnxruntime backend unchanged, on CPU. It is one file
on its own: Triton's Python stub loads it, so it imports the stdlib, numpy, onnxruntime and
triton_python_backend_utils, and nothing of Conch.

Theory of operation: each instance is a process with its own session. ``execute`` gets the requests
of one executed batch. One request runs as it came, without a copy. Several are grouped by
everything but their batch axis; a group is concatenated, run once and split into views. A group
that fails runs again one request at a time, so that only the bad request gets the error.

Sequences with implicit state: Triton's core keeps the state for C++ backends; Python backends
cannot hand it back (Triton 2.51), so each instance keeps the states of its sequences here, by
correlation id. Triton sends all requests of a sequence to one instance, one at a time.

It differs from the C++ backend in one default: without ``intra_op_thread_count`` a session takes
cores // instances threads (at least 1), not all cores, because instances x threads above the
number of cores is slower (triton-inference-server/server#7213). 0 means all cores, as there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

# Triton's config type -> the type in an ONNX graph. BF16 has no numpy type, so it is not here.
ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
# optimization.graph.level, as the C++ backend reads it.
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class RequestError(Exception):
    """A request that cannot be run; the text goes to its sender."""


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; an error here is the model's load error."""
        config = json.loads(args["model_config"])
        name = config["name"]
        if args["model_instance_kind"] != "CPU":
            raise pb_utils.TritonModelException(
                f"{name}: instance kind {args['model_instance_kind']}, this backend runs on CPU "
                "only (KIND_CPU). GPU hosts: NVIDIA's container has the C++ backend."
            )
        path = model_path(config, Path(args["model_repository"]), args["model_version"])
        options = session_options(config)
        try:
            self.session = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class for each failure, all below Exception
            raise pb_utils.TritonModelException(f"{path}: not loaded ({error})") from None
        self.max_batch_size = int(config["max_batch_size"])
        self.sequences = Sequences(config, Path(args["model_repository"]))
        self.inputs = [tensor["name"] for tensor in config["input"]] + self.sequences.controls
        self.required = {t["name"] for t in config["input"] if not t.get("optional")}
        self.string_inputs = {t["name"] for t in config["input"] if t["data_type"] == "TYPE_STRING"}
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.reshapes = {
            t["name"]: [int(d) for d in t["dims"]] for t in config["output"] if "reshape" in t
        }
        check_signature(config, self.session, self.sequences)
        pb_utils.Logger.log_info(
            f"conch onnxruntime {ort.__version__}: {args['model_instance_name']} of {name} version "
            f"{args['model_version']}: {options.intra_op_num_threads} intra-op threads, "
            f"{options.inter_op_num_threads} inter-op threads, {options.execution_mode.name}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        if len(requests) == 1:
            return [self._alone(requests[0])]
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, np.ndarray]]]] = {}
        for index, request in enumerate(requests):
            try:
                feed = self._feed(request)
            except RequestError as error:
                responses[index] = failure(str(error))
            else:
                groups.setdefault(self._group_key(index, feed), []).append((index, feed))
        for members in groups.values():
            self._run_group(requests, members, responses)
        return responses

    def finalize(self) -> None:
        """Free the session."""
        self.session = None

    def _alone(self, request: Any) -> Any:
        """The response to one request: no concatenation, no split."""
        try:
            feed = self._feed(request)
        except RequestError as error:
            return failure(str(error))
        return self._run_one(request, feed)

    def _run_one(self, request: Any, feed: dict[str, np.ndarray]) -> Any:
        """Run one request's tensors."""
        names = self._requested(request)
        try:
            arrays = self.session.run([*names, *self.sequences.outputs], feed)
            response = self._response(names, arrays[: len(names)])
        except Exception as error:
            self.sequences.after(request, None)
            return failure(str(error))
        self.sequences.after(request, arrays[len(names) :])
        return response

    def _feed(self, request: Any) -> dict[str, np.ndarray]:
        """The request's tensors by name: views of the shared memory that Triton wrote."""
        feed = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                array = tensor.as_numpy()
                feed[name] = as_text(name, array) if name in self.string_inputs else array
            elif name in self.required:
                raise RequestError(f"input {name!r}: missing, the model needs it")
        feed.update(self.sequences.before(request))
        return feed

    def _group_key(self, index: int, feed: dict[str, np.ndarray]) -> tuple[Any, ...]:
        """Equal for requests that may run together; without a batch axis none may."""
        if self.max_batch_size == 0:
            return (index,)
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in feed.items())

    def _run_group(
        self,
        requests: list[Any],
        members: list[tuple[int, dict[str, np.ndarray]]],
        responses: list[Any],
    ) -> None:
        """Run requests of equal shape as one batch and fill in their responses."""
        sizes = [len(next(iter(feed.values()))) if feed else 0 for _, feed in members]
        results = self._run_batch(requests, members, sum(sizes)) if len(members) > 1 else None
        if results is None:
            for index, feed in members:
                responses[index] = self._run_one(requests[index], feed)
            return
        start = 0
        for (index, _), size in zip(members, sizes, strict=True):
            names = self._requested(requests[index])
            part = slice(start, start + size)
            responses[index] = self._response(names, [results[name][part] for name in names])
            states = [results[name][part].copy() for name in self.sequences.outputs]
            self.sequences.after(requests[index], states)
            start += size

    def _run_batch(
        self, requests: list[Any], members: list[tuple[int, dict[str, np.ndarray]]], rows: int
    ) -> dict[str, np.ndarray] | None:
        """Outputs of the members' tensors as one batch; None when they must run one by one."""
        first = members[0][1]
        wanted = {name for index, _ in members for name in self._requested(requests[index])}
        names = [name for name in self.outputs if name in wanted] + self.sequences.outputs
        try:
            joined = {key: np.concatenate([feed[key] for _, feed in members]) for key in first}
            arrays = self.session.run(names, joined)
        except Exception:
            return None  # one of them is bad: running alone tells which, and why
        if any(len(array.shape) == 0 or len(array) != rows for array in arrays):
            return None  # an output without the batch axis belongs to no single request
        return dict(zip(names, arrays, strict=True))

    def _requested(self, request: Any) -> list[str]:
        """The outputs the sender wants: all of them when it names none."""
        asked = request.requested_output_names()
        if len(asked) == len(self.outputs):
            return self.outputs
        return [name for name in self.outputs if name in asked] or self.outputs

    def _response(self, names: list[str], arrays: list[np.ndarray]) -> Any:
        """The arrays as a response."""
        tensors = []
        for name, array in zip(names, arrays, strict=True):
            shown = array.reshape(self._shape(name, array)) if name in self.reshapes else array
            tensors.append(pb_utils.Tensor(name, shown))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _shape(self, name: str, array: np.ndarray) -> list[int]:
        """The shape that the config promises for an output with ``reshape``."""
        return [*array.shape[: 1 if self.max_batch_size else 0], *self.reshapes[name]]


class Sequences:
    """The states of this instance's sequences, by correlation id, the latest used last."""

    def __init__(self, config: dict[str, Any], model: Path) -> None:
        """Of ``sequence_batching``; a model without it has no states and no controls."""
        given = config.get("sequence_batching", {})
        entries = given.get("state", [])
        if any(entry["output_name"] in (o["name"] for o in config["output"]) for entry in entries):
            raise pb_utils.TritonModelException(
                f"{config['name']}: a state's output is also an output, it must be one of both"
            )
        self.controls = [control["name"] for control in given.get("control_input", [])]
        self.inputs = {entry["input_name"]: entry["data_type"] for entry in entries}
        self.outputs = [entry["output_name"] for entry in entries]
        batched = int(config["max_batch_size"]) > 0
        self.initial = [initial_state(entry, model, batched=batched) for entry in entries]
        # Triton forgets a sequence after this; we do so later, on the next start of another one.
        self.idle_s = int(given.get("max_sequence_idle_microseconds", 0)) / 1e6 + 10
        self.live: dict[Any, tuple[float, list[np.ndarray]]] = {}

    def before(self, request: Any) -> dict[str, np.ndarray]:
        """The state that the request starts from, by the names of the graph's inputs."""
        if not self.inputs:
            return {}
        key = request.correlation_id()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self._forget_idle()
            self.live[key] = (time.monotonic(), self.initial)
        elif key and key not in self.live:
            raise RequestError(f"sequence {key}: its state is lost, start it again")
        # What Triton makes up to fill a slot belongs to no sequence.
        _, states = self.live.get(key, (0.0, self.initial))
        return dict(zip(self.inputs, states, strict=True))

    def after(self, request: Any, states: list[np.ndarray] | None) -> None:
        """Keep the state that the request left; None when it failed: the old one stays."""
        key = request.correlation_id() if self.inputs else None
        if not key:
            return
        _, old = self.live.pop(key, (0.0, self.initial))
        if not request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            self.live[key] = (time.monotonic(), old if states is None else states)

    def _forget_idle(self) -> None:
        """Drop the sequences that Triton has given up: the oldest come first."""
        limit = time.monotonic() - self.idle_s
        for key in [key for key, (used, _) in self.live.items() if used < limit]:
            del self.live[key]


def initial_state(entry: dict[str, Any], model: Path, *, batched: bool) -> np.ndarray:
    """What a sequence starts with: the file or the zeros that the config says, else zeros."""
    given = (entry.get("initial_state") or [{}])[0]
    dims = [max(1, int(dim)) for dim in given.get("dims") or entry["dims"]]
    dtype = pb_utils.triton_string_to_numpy(entry["data_type"])
    if given.get("data_file"):
        array = np.fromfile(model / "initial_state" / given["data_file"], dtype=dtype).reshape(dims)
    else:
        array = np.zeros(dims, dtype=dtype)
    return array[np.newaxis] if batched else array


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """The session's settings from the model's config; unset ones as in the C++ backend."""
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    cores = len(os.sched_getaffinity(0))
    instances = sum(int(group["count"]) for group in config.get("instance_group", [])) or 1
    threads = whole_number(parameters, "intra_op_thread_count", max(1, cores // instances))
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = whole_number(parameters, "inter_op_thread_count", 1)
    if whole_number(parameters, "execution_mode", 0):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise pb_utils.TritonModelException(
            f"optimization.graph.level: {level}, must be -1, 0, 1 or 2"
        )
    options.graph_optimization_level = GRAPH_LEVELS[level]
    # Threads that spin while they wait take the cores of the other instances and of Triton, and
    # instances come and go without this session being made anew. Measured on 2 cores (MiniLM INT8,
    # batch 8, 2 threads): spinning gives 1.11x with 1 instance and 0.68x with 2.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Where 8-bit sums would saturate (no VNNI) take the slower product that is exact.
    options.add_session_config_entry("session.x64quantprecision", "1")
    for key, value in parameters.items():
        if key.startswith("session."):  # onnxruntime's own settings, that one included
            options.add_session_config_entry(key, value)
    return options


def whole_number(parameters: dict[str, str], key: str, default: int) -> int:
    """A parameter of the config as a number of at least 0."""
    text = parameters.get(key, str(default))
    if not text.isdigit():
        raise pb_utils.TritonModelException(
            f"parameter {key}: {text!r}, must be a whole number of at least 0"
        )
    return int(text)


def model_path(config: dict[str, Any], model: Path, version: str) -> Path:
    """The version's ONNX file: ``default_model_filename``, else ``model.onnx``."""
    filename = config.get("default_model_filename") or "model.onnx"
    path = model / version / filename
    if path.is_dir():  # a folder with the graph and its external data, as the C++ backend takes it
        path = path / "model.onnx"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"{path}: there is no such file")
    return path


def check_signature(
    config: dict[str, Any], session: ort.InferenceSession, sequences: Sequences
) -> None:
    """Refuse a config that does not fit the graph."""
    state_types = list(sequences.inputs.values())
    states = {
        "input": [{"name": n, "data_type": t} for n, t in sequences.inputs.items()],
        "output": [
            {"name": n, "data_type": t} for n, t in zip(sequences.outputs, state_types, strict=True)
        ],
    }
    for kind, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        types = {node.name: node.type for node in nodes}
        for tensor in [*config[kind], *states[kind]]:
            name, wanted = tensor["name"], ONNX_TYPES.get(tensor["data_type"])
            where = f"{config['name']}: {kind} {name!r}"
            if name not in types:
                raise pb_utils.TritonModelException(
                    f"{where}: not in the graph, its {kind}s are {', '.join(sorted(types))}"
                )
            if wanted is None:
                raise pb_utils.TritonModelException(
                    f"{where}: {tensor['data_type']} is not supported, numpy has no such type"
                )
            if types[name] != wanted:
                raise pb_utils.TritonModelException(
                    f"{where}: {tensor['data_type']} in the config, {types[name]} in the graph"
                )
    declared = {tensor["name"] for tensor in config["input"]}
    missing = {node.name for node in session.get_inputs()} - declared
    missing -= {*sequences.inputs, *sequences.controls}
    if missing:
        raise pb_utils.TritonModelException(
            f"{config['name']}: the config lacks the graph's input {', '.join(sorted(missing))}"
        )


def as_text(name: str, array: np.ndarray) -> np.ndarray:
    """Triton's bytes as the str objects that onnxruntime takes."""
    try:
        decoded = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise RequestError(f"input {name!r}: not UTF-8 ({error})") from None
    text = np.empty(len(decoded), dtype=np.object_)
    text[:] = decoded
    return text.reshape(array.shape)


def failure(reason: str) -> Any:
    """A response that carries only an error."""
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(reason))
