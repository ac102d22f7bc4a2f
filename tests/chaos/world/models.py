"""The three models under attack, and the policy that makes their controller busy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.integration import onnx_models
from tests.integration.onnx_models import Port

SLEEPY, BURNER, DENSE = "sleepy", "burner", "dense"
MODELS = (SLEEPY, BURNER, DENSE)
SLEEP_S = 0.040
"""Of one request of ``sleepy``: an instance carries 25 a second."""
RATES = {SLEEPY: (15.0, 45.0, 70.0), BURNER: (4.0, 10.0), DENSE: (5.0, 15.0)}
"""The load moves among these, requests a second."""
STEADY_RPS = 70.0
STEADY_INSTANCES = 4
"""All that its policy allows, and mostly what ``sleepy`` needs for its objective at that load."""
NEEDED_INSTANCES = 3
"""What it needs to keep up at all: 70 req/s of 40 ms are 2.8 instances. A count goes down to these
by itself when few come for a second; whatever shrinks below them shrank because of a lie."""
SETTLE_S = 25.0
"""For the controller to give it that."""
CALM_RPS, CALM_S = 8.0, 30.0
"""A load that one instance carries, and how long the controller has to see that."""
WIDTH = 64

_MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            end = time.{clock}() + {seconds}
            while (left := end - time.{clock}()) > 0:
                {spend}
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]))
        return answers
"""

# What the harness kills amid a change is not the change's fault: it is soon tried again.
POLICY = """\
version: 1
tick: 250ms
defaults: {fast_window: 500ms, stable_window: 1500ms, idle_cost: 200000, cooldown: 500ms,
  load_time: 200ms, blocked: 20s, reloads_per_hour: 200, copies_per_hour: 200}
models:
  sleepy: {slo: 300ms, max_instances: 4, cores: 8, max_batch_size: 1, rebatch: false}
  burner: {slo: 300ms, max_instances: 2, max_batch_size: 1, rebatch: false}
  dense: {slo: 300ms, max_instances: 2, max_batch_size: 8}
"""


def publish(root: Path) -> None:
    """Write the three models into an empty repository."""
    sleep = _MODEL.format(clock="monotonic", seconds=SLEEP_S, spend="time.sleep(left)")
    burn = _MODEL.format(clock="thread_time", seconds=0.002, spend="pass")
    _python(root, SLEEPY, sleep, count=2)
    _python(root, BURNER, burn, count=1)
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    onnx_models.publish(
        root,
        DENSE,
        inputs=[Port(name="x", dims=(WIDTH,))],
        outputs=[Port(name="y", dims=(WIDTH,))],
        nodes=[helper.make_node("MatMul", ["x", "w"], ["y"])],
        constants={"w": weight},
        config="dynamic_batching { }",
    )


def _python(root: Path, name: str, source: str, *, count: int) -> None:
    """A model of the Python backend; its folder of bytecode is a file, so that none is written."""
    version = root / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source)
    (version / "__pycache__").touch()
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 1\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: [ {WIDTH} ] }}\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: [ {WIDTH} ] }}\n'
        f"instance_group {{ count: {count} kind: KIND_CPU }}\n"
    )
