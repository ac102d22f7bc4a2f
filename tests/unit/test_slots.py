"""Slots: which models ask for one, which cannot, and what `conch repo slots` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conch.errors import ConfigError
from serving import model_config, slots
from serving.model_config import ReloadKind
from serving.repository import Repository
from tests.unit.test_cli_repo import invoke
from tests.unit.test_repository_check import GOOD

PLAIN = model_config.parse(GOOD)
LIMITER = "rate_limiter { resources { %s } }"


def _limited(resource: str, count: int = 1) -> model_config.ModelConfig:
    """The good model, whose one group asks for this."""
    text = GOOD.replace("count: 1 ", f"count: {count} " + LIMITER % resource)
    return model_config.parse(text)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """The good model alone."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"weights")
    (tmp_path / "m" / "config.pbtxt").write_text(GOOD)
    return Repository(tmp_path)


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_each_group_asks_for_the_slot_of_its_kind(kind: str) -> None:
    """In place by Triton's rule, and back again to the very config; a priority stays."""
    text = GOOD.replace("KIND_CPU", f"KIND_{kind} rate_limiter {{ priority: 2 }}")
    plain = model_config.parse(text + "instance_group { count: 2 kind: KIND_CPU }")
    asking = slots.with_slots(plain)
    wanted = [[(r.name, r.count) for r in g.rate_limiter.resources] for g in asking.instance_group]
    assert wanted == [[(f"conch_{kind.lower()}", 1)], [("conch_cpu", 1)]]
    assert asking.instance_group[0].rate_limiter.priority == 2
    assert (slots.asks(plain), slots.asks(asking)) == (False, True)
    assert model_config.reload_kind(plain, asking) is ReloadKind.IN_PLACE
    assert slots.with_slots(asking) == asking
    assert slots.without_slots(asking) == plain


def test_a_model_takes_part_only_where_all_its_groups_do() -> None:
    """The instances of another group would run beside the slots."""
    half = slots.with_slots(PLAIN)
    half.instance_group.add(count=1, kind=half.instance_group[0].kind)
    assert not slots.asks(half)
    assert not slots.asks(model_config.parse(""))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("KIND_CPU", "KIND_AUTO"), "KIND_AUTO, must be groups"),
        (GOOD.replace("KIND_CPU", "KIND_MODEL"), "KIND_MODEL, must be groups"),
        (GOOD.replace("instance_group { count: 1 kind: KIND_CPU }", ""), "no instance_group, must"),
        (GOOD.replace("count: 1 ", "count: 1 " + LIMITER % 'name: "R" count: 2'), "resource 'R'"),
        ('name: "e" ensemble_scheduling { step { model_name: "m" } }', "is an ensemble"),
    ],
)
def test_what_cannot_ask_for_a_slot_is_refused(text: str, says: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError, match=says) as caught:
        slots.with_slots(model_config.parse(text))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        ('name: "R" count: 1', "'R'; a server with slots has conch_cpu and conch_gpu only"),
        ('name: "CONCH_CPU" count: 1', "only"),
        ('name: "conch_cpu" count: 1 global: true', "(global), must be for each"),
        ('name: "conch_gpu" count: 3', "3 of 'conch_gpu', at most 2 (--slots)"),
        ('name: "conch_cpu" count: 2', ""),
    ],
)
def test_a_model_that_a_server_with_slots_cannot_load_is_left_out(
    repository: Repository, resource: str, says: str
) -> None:
    """With the reason, and the ensembles around it; the others are served."""
    config = _limited(resource)
    assert slots.fault(config, 2).endswith(says)
    assert bool(slots.fault(config, 2)) is bool(says)
    repository.write_config("m", config, reason="test")
    for name, member in (("around", "m"), ("other", "n")):
        (repository.root / name).mkdir()
        step = f'ensemble_scheduling {{ step {{ model_name: "{member}" }} }}'
        (repository.root / name / "config.pbtxt").write_text(f'name: "{name}" {step}')
    assert set(slots.left_out(repository, 2)) == ({"m", "around"} if says else set())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (PLAIN, "asks for no slot"),
        (_limited('name: "conch_cpu" count: 1', count=4), "has 4 instances for 4 slots"),
        (_limited('name: "conch_cpu" count: 1', count=3), ""),
        (model_config.parse('name: "e" ensemble_scheduling { }'), ""),
    ],
)
def test_what_will_surprise_someone_is_said(config: model_config.ModelConfig, says: str) -> None:
    """At the start of a server of four slots."""
    assert slots.remark(config, 4).startswith(says)
    assert bool(slots.remark(config, 4)) is bool(says)


def test_the_command_writes_a_revision_and_takes_it_back(repository: Repository) -> None:
    """A dry run changes nothing; a second call neither."""
    shown = invoke(repository, "slots", "m", "--dry-run")
    assert '+      name: "conch_cpu"' in shown.stdout
    assert repository.config_text("m") == GOOD
    [row] = json.loads(invoke(repository, "slots", "m", "--json").stdout)["models"]
    assert (row["slots"], row["loaded"], bool(row["diff"])) == (True, False, True)
    assert repository.read_config("m") == slots.with_slots(PLAIN)
    assert "nothing to change" in invoke(repository, "slots", "m").stdout
    assert "no local server" in invoke(repository, "slots", "m", "--off").stderr
    assert repository.read_config("m") == PLAIN
    reasons = [revision.reason for revision in repository.revisions("m").all()]
    assert reasons == ["found on disk", "asks for a slot", "asks for no slot"]


def test_a_model_that_calls_others_gets_no_slot(repository: Repository) -> None:
    """It would hold its own while it waits for theirs."""
    code = repository.root / "m" / "1" / "model.py"
    code.write_text("import triton_python_backend_utils as pb\n")
    slots.require_no_calls(repository, "m")
    code.write_text("call = pb.InferenceRequest(model_name='n')\n")
    refused = invoke(repository, "slots", "m", fails=ConfigError)
    assert "calls other models (model.py)" in str(refused.exception)
    assert repository.config_text("m") == GOOD


def test_a_load_refuses_what_the_server_cannot_load() -> None:
    """Rather than have Triton take another model down with it."""
    slots.require(slots.with_slots(PLAIN), 1)
    with pytest.raises(ConfigError, match="at most 2") as caught:
        slots.require(_limited('name: "conch_gpu" count: 3'), 2)
    assert "conch repo slots m" in (caught.value.hint or "")


def test_control_keeps_the_limiter_and_its_count() -> None:
    """Whatever it rewrites of a group."""
    asking = slots.with_slots(PLAIN)
    asking.instance_group.add().CopyFrom(asking.instance_group[0])
    more = model_config.with_instances(asking, 5)
    assert [group.count for group in more.instance_group] == [3, 2]
    assert all(len(group.rate_limiter.resources) == 1 for group in more.instance_group)
    assert slots.asks(more)
