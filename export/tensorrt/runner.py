"""Runs TensorRT, alone in a process of its own: ``python -P runner.py REQUEST.json RESULT.json``.

Imports nothing of Conch, so that it starts wherever TensorRT is. TensorRT can end its process (a
crash in a kernel, no memory, a missing driver): what was found by then is in RESULT.json, which is
replaced after each step. Works with tensorrt 10 and 11 and, for the gate, with tensorrt_rtx.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR of cuda.h
_PR_SET_PDEATHSIG = 1


class _Result:
    """What was found, written out after each step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}

    def add(self, **values: Any) -> None:
        """Note values and write all of them, whole or not at all."""
        self.values.update(values)
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self.values), encoding="utf-8")
        temporary.replace(self._path)


def main(request_path: str, result_path: str) -> None:
    """Do what the request asks: ``probe``, ``version``, ``gate`` or ``build``."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    _end_with(request["parent"])
    result = _Result(Path(result_path))
    if request.get("memory_bytes"):
        limit = int(request["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if request["action"] == "probe":
        result.add(**probe())
        return
    trt: Any = importlib.import_module(request["module"])
    result.add(version=str(trt.__version__))
    if request["action"] != "version":
        _Work(trt, request, result).run()


def probe() -> dict[str, Any]:
    """GPU 0 as the CUDA driver names it; ``error`` when there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"error": "no NVIDIA driver (libcuda.so.1 is not found)"}
    if code := cuda.cuInit(0):
        return {"error": f"the NVIDIA driver finds no usable GPU (cuInit answers {code})"}
    count, device = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return {"error": "the NVIDIA driver sees no GPU"}
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return {"gpu": name.value.decode(), "compute_capability": ".".join(capability)}


class _Work:
    """One parse and one build."""

    def __init__(self, trt: Any, request: dict[str, Any], result: _Result) -> None:
        self._trt, self._request, self._result = trt, request, result
        self._logged: list[str] = []
        self._logger = _logger(trt, self._logged)
        self._onnx = Path(request["onnx"])

    def run(self) -> None:
        """Parse, and build what parses."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = self._network(builder)
        parser = trt.OnnxParser(network, self._logger)
        parsed = bool(parser.parse_from_file(str(self._onnx)))
        errors = [_error(parser.get_error(i)) for i in range(parser.num_errors)]
        self._result.add(
            parsed=parsed,
            errors=[] if parsed else errors or [{"text": text} for text in self._logged],
            tensors=_tensors(network) if parsed else {},
        )
        if parsed:
            self._build(builder, network)
        else:
            self._result.add(unsupported=self._unsupported(builder))

    def _network(self, builder: Any) -> Any:
        """A network whose types are those of the graph: what TensorRT 11 always does."""
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def _unsupported(self, builder: Any) -> list[list[int]]:
        """Node numbers of each part of the graph that the parser says it cannot take."""
        network = self._network(builder)  # a name of its own: the parser does not keep it alive
        parser = self._trt.OnnxParser(network, self._logger)
        if not hasattr(parser, "supports_model_v2"):
            return []
        parser.supports_model_v2(self._onnx.read_bytes(), str(self._onnx))
        return [
            [int(node) for node in parser.get_subgraph_nodes(index)]
            for index in range(parser.num_subgraphs)
            if not parser.is_subgraph_supported(index)
        ]

    def _build(self, builder: Any, network: Any) -> None:
        """Build, and keep the plan where the request wants one."""
        self._logged.clear()
        config = builder.create_builder_config()
        if problem := self._set_profile(builder, network, config):
            self._result.add(built=False, errors=[{"text": problem}])
            return
        if self._request["action"] == "build":
            self._set_options(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            errors = [{"text": text} for text in self._logged] or [{"text": "no engine came out"}]
            self._result.add(built=False, errors=errors)
            return
        size = int(plan.nbytes)
        if self._request.get("plan"):
            Path(self._request["plan"]).write_bytes(memoryview(plan))
        if self._request.get("timing_cache_out") and config.get_timing_cache() is not None:
            cache = config.get_timing_cache().serialize()
            Path(self._request["timing_cache_out"]).write_bytes(memoryview(cache))
        self._result.add(built=True, engine_bytes=size)

    def _set_profile(self, builder: Any, network: Any, config: Any) -> str:
        """Give the builder the shapes; why it cannot take them, or nothing."""
        profile = builder.create_optimization_profile()
        wanted = self._request["build"]["profile"]
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.is_shape_tensor:
                return f"input {tensor.name} decides shapes by its values, which no profile covers"
            if tensor.name not in wanted:
                return f"input {tensor.name} has no shapes in the build recipe"
            shapes = wanted[tensor.name]
            profile.set_shape(tensor.name, shapes["min"], shapes["opt"], shapes["max"])
        if config.add_optimization_profile(profile) < 0:
            return "the shapes of the build recipe do not fit the graph"
        return ""

    def _set_options(self, config: Any) -> None:
        """Options of the real build: the gate does without, they change no verdict."""
        trt, build = self._trt, self._request["build"]
        if build["workspace_bytes"]:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build["workspace_bytes"])
        if build["version_compatible"]:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.builder_optimization_level = build["optimization_level"]
        level = build["hardware_compatibility"].upper()
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise SystemExit(f"hardware_compatibility {level}: TensorRT {trt.__version__} has none")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
        if not self._request.get("timing_cache_out"):
            return
        path = Path(self._request["timing_cache"])
        known = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):
            # Of another TensorRT or GPU: start anew.
            config.set_timing_cache(config.create_timing_cache(b""), False)


def _logger(trt: Any, lines: list[str]) -> Any:
    """A logger that keeps errors and drops the rest."""
    worst = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    class Keep(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in worst:
                lines.append(text)

    return Keep()


def _error(error: Any) -> dict[str, Any]:
    """A parser's error as JSON values."""
    return {
        "code": error.code().name,
        "operator": error.node_operator(),
        "node": error.node_name(),
        "text": error.desc(),
    }


def _tensors(network: Any) -> dict[str, str]:
    """TensorRT's type of each input and output, by name."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {tensor.name: tensor.dtype.name for tensor in (*inputs, *outputs)}


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that comes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a worker ignores it, and we inherit that
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this was said
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
