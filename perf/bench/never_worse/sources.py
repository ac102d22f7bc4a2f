"""What is in the models of the comparison: Python sources with chosen times, and a small network.

The sources know nothing of Conch. What they take and where they break is in their text, as it would
be in anybody's model.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

MLP_WIDTH = 1024
_MLP_HIDDEN = 4096

_WAITING = '''
"""Waits for something that is not this machine's CPU."""
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        most = json.loads(args["model_config"])["max_batch_size"]
        if most > {loads_up_to}:
            raise RuntimeError(f"profile of {loads_up_to} rows, max_batch_size is {{most}}")
        time.sleep({load_s})

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        count = sum(len(row) for row in rows)
        time.sleep({flat_s} + {row_s} * count)
        if count > {rows}:
            said = f"{{count}} rows, scratch space holds {rows}"
            if "{beyond}" == "raises":
                raise pb_utils.TritonModelException(said)
            errors = [pb_utils.TritonError(said) for _ in requests]
            if "{beyond}" == "dies":
                errors = errors[:1] * len(errors)
            return [pb_utils.InferenceResponse(error=error) for error in errors]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", row * 2)]) for row in rows]
'''

_BURNING = '''
"""Hashes for so much CPU time a request, whatever the wall clock says."""
import hashlib
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            row = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            end = time.thread_time() + {cpu_s}
            while time.thread_time() < end:
                hashlib.sha256(b"conch" * 1000).digest()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", row)]))
        return answers
'''


def waiting(
    *,
    flat_s: float,
    row_s: float = 0.0,
    rows: int = 1_000_000,
    beyond: str = "answers",
    load_s: float = 0.0,
    loads_up_to: int = 1_000_000,
) -> str:
    """A model that sleeps ``flat_s`` + ``row_s`` a row for each batch, without CPU.

    Args:
        flat_s, row_s: seconds a batch, and for each row in it.
        rows: its buffers hold so many; beyond that it fails.
        beyond: ``raises`` an exception; ``answers`` each request with an error response, which
            Triton counts as a success; or ``dies``: answers all with one and the same error, of
            which Triton 2.51 dies by a segmentation fault.
        load_s: how long an instance takes to load.
        loads_up_to: the greatest ``max_batch_size`` that it loads with.
    """
    return _WAITING.format(
        flat_s=flat_s,
        row_s=row_s,
        rows=rows,
        beyond=beyond,
        load_s=load_s,
        loads_up_to=loads_up_to,
    )


def burning(*, cpu_s: float) -> str:
    """A model that burns so many CPU seconds a request, on one core."""
    return _BURNING.format(cpu_s=cpu_s)


def write_mlp(path: Path) -> None:
    """Three dense layers with random weights, as an ONNX file: work, not knowledge."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    widths = (MLP_WIDTH, _MLP_HIDDEN, _MLP_HIDDEN, MLP_WIDTH)
    nodes, weights, value = [], [], "x"
    for number, (wide, high) in enumerate(pairwise(widths)):
        weight = (random.standard_normal((wide, high)) / wide**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        value = "y" if number == len(widths) - 2 else f"h{number}"
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [value]))
    shape: list[str | int | None] = ["batch", MLP_WIDTH]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
