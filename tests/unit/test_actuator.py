"""A model whose stubs are dead after a load, and the ensembles that it is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from conch.errors import ApplyRejected
from control.act.actuator import Actuator
from serving import model_config
from serving.client import InferenceFailed, TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository

MEMBER = """
name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
"""
AROUND = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
ensemble_scheduling {
  step {
    model_name: "m" model_version: -1
    input_map { key: "x" value: "x" }
    output_map { key: "y" value: "y" }
  }
}
"""


@dataclass
class Triton:
    """After the first load each stub is dead, until the model is unloaded; that takes both down."""

    repository: Repository
    served: ModelConfig
    up: set[str] = field(default_factory=lambda: {"m", "around"})
    calls: list[str] = field(default_factory=list)
    dead: bool = False

    def load(self, name: str, **_: Any) -> None:
        """It works again only where it was unloaded before."""
        self.calls.append(f"load {name}")
        if name == "m":
            self.served = self.repository.read_config("m")
            self.dead = "m" in self.up
        self.up.add(name)

    def unload(self, name: str, **_: Any) -> None:
        """Never ends, as after a stub died."""
        self.calls.append(f"unload {name}")
        self.up.clear()
        raise ApplyRejected("not done after 2 s")

    def config(self, _: str) -> ModelConfig:
        """What is served."""
        return self.served

    def index(self) -> dict[str, str]:
        """What is up."""
        return {name: "READY" if name in self.up else "UNAVAILABLE" for name in ("m", "around")}

    def infer(self, *_: Any, **__: Any) -> None:
        """Answer, or not."""
        if self.dead:
            raise InferenceFailed("Stub process 'm_0_0' is not healthy.")


def test_an_ensemble_comes_back_after_its_member_was_unloaded_to_heal(tmp_path: Path) -> None:
    """At the start of a controller, as after a change."""
    for name, text in (("m", MEMBER), ("around", AROUND)):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    repository = Repository(tmp_path)
    before = repository.read_config("m")
    repository.write_config("m", model_config.with_instances(before, 3), reason="more load")
    triton = Triton(repository, served=before)
    assert Actuator(repository, cast(TritonClient, triton)).reconcile("m")
    assert triton.calls == ["load m", "unload m", "load m", "load around"]
    assert triton.served == repository.read_config("m")
