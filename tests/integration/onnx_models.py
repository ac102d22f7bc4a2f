"""Small ONNX models with exact answers, published into a repository for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

# Triton's type -> ONNX's; every type that numpy has.
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "STRING": TensorProto.STRING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output: ``dims`` without the batch axis, -1 for a variable one.

    ``graph_dims`` where the graph's differ from the config's, as they do with a reshape.
    """

    name: str
    kind: str = "FP32"
    dims: tuple[int, ...] = (4,)
    settings: str = ""
    graph_dims: tuple[int, ...] | None = None

    def value_info(self, batched: bool) -> onnx.ValueInfoProto:
        """As the graph declares it."""
        axes = ["batch"] if batched else []
        dims = self.dims if self.graph_dims is None else self.graph_dims
        shape = [*axes, *(None if dim < 0 else dim for dim in dims)]
        return helper.make_tensor_value_info(self.name, TYPES[self.kind], shape)

    def pbtxt(self) -> str:
        """As the config declares it."""
        return (
            f'{{ name: "{self.name}" data_type: TYPE_{self.kind} '
            f"dims: [{', '.join(map(str, self.dims))}] {self.settings} }}"
        )


def publish(
    repository: Path,
    name: str,
    *,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    max_batch_size: int = 8,
    config: str = "",
    filename: str = "model.onnx",
) -> None:
    """Write the graph as version 1 and a config in the C++ backend's terms."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    batched = max_batch_size > 0
    graph = helper.make_graph(
        list(nodes),
        name,
        [port.value_info(batched) for port in inputs],
        [port.value_info(batched) for port in outputs],
        [onnx.numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(version / filename))
    if "instance_group" not in config:
        config += "\ninstance_group [ { count: 1 kind: KIND_CPU } ]"
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        + "".join(f"input {port.pbtxt()}\n" for port in inputs)
        + "".join(f"output {port.pbtxt()}\n" for port in outputs)
        + config
    )


def publish_double(repository: Path, name: str, **settings: object) -> None:
    """``y = x + x`` for FP32 ``[batch, 4]``."""
    publish(
        repository,
        name,
        inputs=[Port(name="x")],
        outputs=[Port(name="y")],
        nodes=[helper.make_node("Add", ["x", "x"], ["y"])],
        **settings,  # type: ignore[arg-type]
    )
