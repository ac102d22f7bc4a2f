"""The policy file: defaults, inheritance, and every mistake named with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conch.errors import ConfigError
from control import policy_file
from control.core.policy import Policy

GOOD = """\
version: 1
tick: 500ms
defaults: {slo: 80ms, max_instances: 3}
models:
  resnet: {slo: 20ms}
  bert:
"""


def _load(tmp_path: Path, text: str) -> policy_file.PolicyFile:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return policy_file.load(path)


def test_load_lays_a_models_section_over_the_defaults(tmp_path: Path) -> None:
    """What a model does not say comes from the defaults."""
    policy = _load(tmp_path, GOOD)
    resnet, bert = policy.policy_of("resnet", cores=8), policy.policy_of("bert", cores=8)
    assert (resnet.slo_s, resnet.max_instances) == (0.02, 3)
    assert (bert.slo_s, bert.max_instances) == (0.08, 3)
    assert policy.tick == 0.5


def test_policy_of_defaults_to_one_instance_a_core() -> None:
    """Without a bound the cores are the bound."""
    assert policy_file.PolicyFile().policy_of("m", cores=6).max_instances == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: {}", r"policy\.yaml:1: modles: unknown key; did you mean 'models'"),
        ("defaults:\n  slo_ms: 5", r"policy\.yaml:2: defaults\.slo_ms: unknown key; did you mean"),
        ("defaults: {slo: fast}", r"'fast' is not a duration"),
        ("defaults: {slo: -5}", r"not a duration"),
        ("defaults: {slo: .nan}", r"not a duration"),
        ("models:\n  a: {min_instances: 3, max_instances: 2}", r"must be at least min_instances"),
        ("models:\n  '../a': {}", r"model name: '\.\./a'"),
        ("version: 2", r"version = 2"),
        ("- a", r"must be a mapping"),
        ("a: [", r"not valid YAML"),
        ("defaults: 5", r"defaults = 5"),
        ("models: 5", r"models = 5"),
        (
            "defaults: {calibrate: x.csv}",
            r"calibrate = 'x\.csv': must be true, false or the path of",
        ),
        ("defaults: {calibrate: 3}", r"calibrate = 3: must be true, false or the path of a"),
    ],
)
def test_load_names_the_mistake(tmp_path: Path, text: str, message: str) -> None:
    """File, line, key, value, and what to do."""
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, text)


def test_load_reports_every_mistake_at_once(tmp_path: Path) -> None:
    """Two mistakes are two lines, not two runs."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "tick: soon\ndefaults:\n  slo: fast\n")
    assert len(caught.value.message.splitlines()) == 2


def test_load_of_a_missing_file(tmp_path: Path) -> None:
    """It says which file."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        policy_file.load(tmp_path / "none.yaml")


def test_policy_without_a_key_is_the_core_s_own() -> None:
    """What was measured with the core's defaults is what users get, but for unwritten bounds."""
    of_file = policy_file.PolicyFile().policy_of("m", cores=4)
    assert of_file.unwritten == ("min_instances", "max_instances", "max_batch_size")
    written = replace(of_file, max_batch_size=32, unwritten=())
    assert written == Policy(slo_s=0.1, max_instances=4, cores=4)


def test_who_writes_the_most_instances_lets_the_count_move() -> None:
    """Neither bound: the owner's count is the least. The most alone: from 1 to it."""
    neither, most = policy_file.ModelPolicy(), policy_file.ModelPolicy(max_instances=3)
    assert "min_instances" in neither.typed(cores=2).unwritten
    assert most.typed(cores=2).unwritten == ("max_batch_size",)
    assert most.typed(cores=2).min_instances == 1


def test_inputs_for_measuring_are_found_from_the_policy_s_folder_on(tmp_path: Path) -> None:
    """They are leave to measure; a flag names none."""
    text = "defaults: {calibrate: in/rows.npz}\nmodels:\n  a: {}\n  b: {calibrate: false}\n"
    policy = _load(tmp_path, text)
    assert policy.inputs_of("a") == tmp_path / "in/rows.npz"
    assert policy.policy_of("a").calibrate is True
    assert policy.inputs_of("b") is None
    assert policy.policy_of("b").calibrate is False
    absolute = _load(tmp_path, "defaults: {calibrate: /rows.json}")
    assert absolute.inputs_of("any") == Path("/rows.json")
