"""Who is under control: each model by itself, and a policy that means what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from conch.errors import ConfigError
from control.policy_file import ModelPolicy, PolicyFile
from control.roster import NOT_LOADED, Roster, roster
from serving import model_config
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository

FILES = {
    "good": "instance_group { count: 1 kind: KIND_CPU }",
    "gpu": "instance_group { count: 1 kind: KIND_GPU }",
    "groups": "instance_group { count: 2 kind: KIND_CPU } instance_group { kind: KIND_CPU }",
    "mixed": "instance_group { count: 1 kind: KIND_CPU } instance_group { kind: KIND_GPU }",
    "pipeline": 'ensemble_scheduling { step { model_name: "good" } step { model_name: "gpu" } }',
    "broken": "max_batch_size: eight",
    "unloaded": "instance_group { count: 1 kind: KIND_CPU }",
}
SHOWN = {
    "good": FILES["good"],
    "gpu": "instance_group { count: 1 kind: KIND_GPU gpus: [0, 1, 2, 3] }",
    "groups": "instance_group { count: 2 kind: KIND_CPU } instance_group { count: 1 "
    "kind: KIND_CPU }",
    "mixed": "instance_group { count: 1 kind: KIND_CPU } instance_group { count: 1 kind: KIND_GPU "
    "gpus: 0 }",
    "pipeline": FILES["pipeline"],
    "broken": FILES["good"],
}


class Server:
    """All but one are loaded."""

    def index(self) -> dict[str, str]:
        """As Triton says."""
        return dict.fromkeys(SHOWN, "READY")

    def config(self, name: str) -> ModelConfig:
        """As Triton shows it."""
        return model_config.parse(SHOWN[name])


def _roster(tmp_path: Path, policy: PolicyFile, names: tuple[str, ...] = tuple(FILES)) -> Roster:
    """Of a repository with these models."""
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(FILES[name])
    return roster(policy, Repository(tmp_path), cast(TritonClient, Server()))


def test_each_model_is_asked_by_itself(tmp_path: Path) -> None:
    """One that cannot be controlled keeps none of the others from it; each line fits its model."""
    found = _roster(tmp_path, PolicyFile(defaults=ModelPolicy(max_instances=8)))
    assert set(found.policies) == {"good", "gpu", "groups"}
    assert set(found.left_out) == {"mixed", "pipeline", "broken", "unloaded"}
    assert "different kinds (KIND_CPU, KIND_GPU)" in found.left_out["mixed"]
    assert "control its members, good, gpu" in found.left_out["pipeline"]
    assert "not a model config" in found.left_out["broken"]
    assert found.left_out["unloaded"] == NOT_LOADED
    assert found.policies["groups"].min_instances == 2
    assert found.policies["good"].min_instances == 1


def test_without_a_written_maximum_what_is_in_force_is_allowed(tmp_path: Path) -> None:
    """A model on four GPUs has four instances, whatever cores the machine has."""
    found = _roster(tmp_path, PolicyFile(), ("gpu", "groups"))
    assert found.policies["gpu"].max_instances >= 4
    assert found.policies["groups"].max_instances >= 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("typo", "model typo: not in"),
        ("pipeline", "ensemble"),
        ("unloaded", "unloaded not loaded by the server"),
    ],
)
def test_a_policy_that_names_what_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, says: str
) -> None:
    """Though others could be controlled: a typo must not pass."""
    policy = PolicyFile(models={"good": ModelPolicy(), name: ModelPolicy()})
    with pytest.raises(ConfigError, match=says):
        _roster(tmp_path, policy)


def test_a_named_model_that_cannot_be_controlled_is_left_out(tmp_path: Path) -> None:
    """It is there and loaded; the others are controlled."""
    names = {name: ModelPolicy(max_instances=4) for name in ("good", "mixed", "broken")}
    found = _roster(tmp_path, PolicyFile(models=names))
    assert set(found.policies) == {"good"}
    assert set(found.left_out) == {"mixed", "broken"}


def test_bounds_of_the_policy_itself_are_its_error(tmp_path: Path) -> None:
    """Three instances on four GPUs were written by a person; the default's are not."""
    with pytest.raises(ConfigError, match="multiple of 4"):
        _roster(tmp_path, PolicyFile(models={"gpu": ModelPolicy(max_instances=3)}))
    defaults = PolicyFile(defaults=ModelPolicy(max_instances=1))
    found = roster(defaults, Repository(tmp_path), cast(TritonClient, Server()))
    assert "multiple of 4" in found.left_out["gpu"]
    assert "must be at least 2" in found.left_out["groups"]
    assert set(found.policies) == {"good"}


def test_none_at_all_is_an_error_that_says_why_of_each(tmp_path: Path) -> None:
    """Every reason once."""
    with pytest.raises(ConfigError) as error:
        _roster(tmp_path, PolicyFile(), ("mixed", "broken", "unloaded"))
    for part in ("mixed: its 2 instance groups", "broken: ", "unloaded: not loaded"):
        assert part in error.value.message
