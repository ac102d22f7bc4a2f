"""What a session refuses before it begins, and what it finds of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conch.errors import ApplyRejected, ConfigError
from control import session
from control.policy_file import ModelPolicy, PolicyFile
from control.roster import require_whole
from control.tick import Mode
from serving import model_config, pending
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from tests.unit.story import a_policy
from tests.unproven import recorded

OLD = """name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""


@dataclass
class Triton:
    """It failed to load the model, or somebody unloaded that; it loads what is as it was before."""

    repository: Repository
    reason: str
    loads: list[str] = field(default_factory=list)

    def __enter__(self) -> Triton:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def live(self) -> bool:
        """It is."""
        return True

    def index(self) -> dict[str, str]:
        """Whether it is loaded."""
        return {"m": "READY" if self.loads else "UNAVAILABLE"}

    def unavailable(self) -> dict[str, str]:
        """Why it is not."""
        return {} if self.loads else {"m": self.reason}

    def load(self, name: str, **_: Any) -> None:
        """The old config only."""
        if self.repository.config_text(name) != OLD:
            raise ApplyRejected("out of memory")
        self.loads.append(name)

    def config(self, name: str) -> ModelConfig:
        """What is served."""
        if not self.loads:
            raise ApplyRejected("unknown model")
        return model_config.parse(OLD)

    def infer(self, *_: Any, **__: Any) -> None:
        """Answer."""


@pytest.mark.parametrize("named", [False, True], ids=["every model", "named by the policy"])
@pytest.mark.parametrize("reason", ["out of memory", "unloaded"])
def test_a_change_that_cost_the_server_its_model_goes_back_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, named: bool
) -> None:
    """And is loaded, unless a person unloaded the model: nobody else may take it back any more."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(OLD)
    repository = Repository(tmp_path)
    more = OLD.replace("count: 1", "count: 2")
    recorded(repository, "m", repository.write_text("m", more, reason="SCALE_UP", tick_id="t"))
    triton = Triton(repository, reason)
    monkeypatch.setattr(session, "TritonClient", lambda *_, **__: triton)
    policy = PolicyFile(models={"m": ModelPolicy()} if named else {})
    endpoint = Endpoint(name="t", host="127.0.0.1", http_port=1, grpc_port=2, metrics_port=3)
    if reason == "unloaded":
        with (
            pytest.raises(ConfigError, match="not loaded"),
            session.session(endpoint, repository, policy, mode=Mode.ACTIVE),
        ):
            pass
    else:
        with session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop:
            assert loop.probation is not None
            assert [back.model for back in loop.probation.taken_back()] == ["m"]
            assert list(loop.policies) == ["m"]
    assert repository.config_text("m") == OLD
    assert pending.names(repository) == []


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 3), (5, 7)])
def test_bounds_without_a_whole_multiple_are_refused(least: int, most: int) -> None:
    """Instances on four GPUs come in fours."""
    with pytest.raises(ConfigError, match="must hold a multiple of 4") as error:
        require_whole("m", a_policy(min_instances=least, max_instances=most), 4)
    assert f"at least {4 if least < 5 else 8}," in error.value.hint


@pytest.mark.parametrize(("least", "most"), [(1, 4), (3, 9), (8, 8)])
def test_bounds_with_one_are_not(least: int, most: int) -> None:
    """The last multiple within them is enough."""
    require_whole("m", a_policy(min_instances=least, max_instances=most), 4)
