"""The GPU target of the comparison: a torch model whose instances share one GPU."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format

from perf.bench.control.real import Served
from serving import model_config
from serving.model_config import ModelConfig
from serving.repository import CONFIG

MODEL_FILE = Path(__file__).with_name("torch_model.py")
_QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_CONFIG = """
backend: "python"
version_policy { specific { versions: 1 } }
dynamic_batching { }
instance_group { count: 1 }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel:
    """What the torch model does.

    Attributes:
        width: of its square layers; also of a request.
        layers: different ones, each with ``width``² weights of 4 bytes.
        rounds: how often a batch goes through all of them.
        max_batch_size: requests that Triton may join.
        instances: at the start.
        on_gpu: on GPU 0, else on the CPU with one thread an instance.
        name: the model's.
    """

    width: int = 4096
    layers: int = 8
    rounds: int = 40
    max_batch_size: int = 8
    instances: int = 1
    on_gpu: bool = True
    name: str = "torch_stack"


def find_gpu() -> str:
    """The name of the first GPU; empty without one."""
    if shutil.which(_QUERY[0]) is None:
        return ""
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip().splitlines()[0] if told.stdout.strip() else ""


def config_of(model: TorchModel) -> ModelConfig:
    """The complete ``config.pbtxt``."""
    config = model_config.parse(_CONFIG)
    config.name, config.max_batch_size = model.name, model.max_batch_size
    tensor = f"data_type: TYPE_FP32 dims: {model.width}"
    text_format.Merge(f'input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}', config)
    group = config.instance_group[0]
    group.count = model.instances
    group.kind = group.KIND_GPU if model.on_gpu else group.KIND_CPU
    if model.on_gpu:
        group.gpus.append(0)
    for key in ("width", "layers", "rounds"):
        config.parameters[key].string_value = str(getattr(model, key))
    return config


def publish(model: TorchModel, root: Path) -> None:
    """Write the model's directory into the repository at ``root``."""
    folder = root / model.name
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copyfile(MODEL_FILE, version / "model.py")
    # Bytecode written at the first load would make the next change of the count a full reload.
    (version / "__pycache__").touch()
    (folder / CONFIG).write_text(model_config.to_text(config_of(model)), encoding="utf-8")


def served(model: TorchModel, device: str) -> Served:
    """The model for a run."""
    return Served(
        model=model.name,
        label=(
            f"torch model on {device}: {model.layers} layers of {model.width}² fp32, "
            f"{model.rounds} rounds, batch {model.max_batch_size}"
        ),
        publish=lambda root, count: publish(replace(model, instances=count), root),
    )
