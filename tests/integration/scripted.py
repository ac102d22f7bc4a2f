"""Python-backend models with behaviour on purpose: known times, refusals, failures."""

from __future__ import annotations

import re
from pathlib import Path

MODEL = '''
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Doubles x in ``batch_s`` seconds a batch, by the square for more rows than that;
    refuses or fails at chosen batch sizes; writes down when it worked where ``spans`` names a file.
    """

    def initialize(self, args):
        config = json.loads(args["model_config"])
        p = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.batch_s = float(p.get("batch_s", "0"))
        self.square_above = float(p.get("square_above", "inf"))
        self.spans = p.get("spans")
        size = config["max_batch_size"]
        if size == int(p.get("refuse_batch", "-1")):
            raise RuntimeError(f"max_batch_size {size} does not fit into memory")
        self.broken = size == int(p.get("broken_batch", "-1"))

    def execute(self, requests):
        begun_s = time.monotonic()
        rows = sum(pb_utils.get_input_tensor_by_name(r, "x").shape()[0] for r in requests)
        time.sleep(self.batch_s * max(1.0, rows / self.square_above) ** 2)
        if self.spans:
            with open(self.spans, "a") as file:
                print(begun_s, time.monotonic(), file=file)
        if self.broken:
            error = pb_utils.TritonError("broken on purpose")
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        tensors = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", t + t)]) for t in tensors]
'''


def publish(root: Path, name: str, *, max_batch_size: int = 8, **parameters: object) -> None:
    """Write the model with dynamic batching, one instance and these parameters."""
    version = root / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    lines = "".join(
        f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n'
        for k, v in parameters.items()
    )
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [4] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [4] }\n'
        "instance_group { count: 1 kind: KIND_CPU }\n"
        "dynamic_batching { }\n" + lines
    )


def publish_ensemble(root: Path, name: str, member: str, *, max_batch_size: int = 8) -> None:
    """Write an ensemble of one step around such a model."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "lineage.json").write_text("{}")
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: {max_batch_size}\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [4] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [4] }\n'
        f'ensemble_scheduling {{ step {{ model_name: "{member}" model_version: -1\n'
        '  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }\n'
    )


def set_count(root: Path, name: str, count: int) -> None:
    """Another count in the config's file."""
    path = root / name / "config.pbtxt"
    path.write_text(re.sub(r"count: \d+", f"count: {count}", path.read_text()))
