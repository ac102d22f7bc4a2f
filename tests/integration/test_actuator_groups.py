"""Instance groups as other people write them, changed on a real Triton; and batches refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from control.act.actuator import Actuator
from control.act.baseline import Baseline
from control.act.knobs import settings_of
from control.action import Outcome
from serving import groups, pending
from tests.integration import changeable, onnx_models
from tests.integration.changeable import X

GROUPS = {
    "plain": "instance_group [ { count: 1 kind: KIND_CPU } ]\n dynamic_batching { }",
    "two_groups": 'instance_group [ { count: 1 kind: KIND_CPU }, { name: "extra" count: 1 '
    "kind: KIND_CPU } ]",
    "auto_kind": "instance_group { count: 2 }",
    "no_group": "",
    "no_count": "instance_group [ { kind: KIND_CPU } ]",
    "queue_guard": """instance_group [ { count: 1 kind: KIND_CPU } ]
        # never let more than twenty wait: callers would rather be told
        dynamic_batching { default_queue_policy { timeout_action: REJECT
        default_timeout_microseconds: 200000 max_queue_size: 20 } priority_levels: 2
        default_priority_level: 2 priority_queue_policy { key: 1 value { max_queue_size: 5 } } }""",
}
SHALLOW = '''
import numpy as np
import triton_python_backend_utils as pb_utils

ROWS = 4


class TritonPythonModel:
    """A model whose scratch space holds four rows: max_batch_size says so."""

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        rows = sum(len(tensor) for tensor in tensors)
        if rows > ROWS:
            said = f"{rows} rows, scratch space holds {ROWS}"
            if RAISES:
                raise pb_utils.TritonModelException(said)
            error = pb_utils.TritonError(said)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", t * 2)]) for t in tensors]
'''


def publish_shallow(root: Path, name: str, *, raises: bool) -> None:
    """A model that takes four rows, as its config says."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(f"RAISES = {raises}\n{SHALLOW}")
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"  # four rows\nbackend: "python"\nmax_batch_size: 4\n'
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
        "instance_group [ { count: 1 kind: KIND_CPU } ]\ndynamic_batching { }\n"
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint) of one server with all of these models."""
    root = tmp_path_factory.mktemp("repository")
    for name, written in GROUPS.items():
        size = 1 if name == "queue_guard" else 8
        onnx_models.publish_double(root, name, config=written, max_batch_size=size)
    path = root / "no_group" / "config.pbtxt"
    path.write_text(path.read_text()[: path.read_text().index("instance_group")])
    publish_shallow(root, "raises", raises=True)
    publish_shallow(root, "separate_errors", raises=False)
    return changeable.serve(root, start_server, connect, settled=())


@pytest.mark.parametrize("name", GROUPS)
def test_groups_as_people_write_them_go_up_and_down(served, name: str) -> None:
    """Only the count is written; no group keeps fewer than one instance."""
    repository, client, _ = served
    actuator, baseline = Actuator(repository, client), Baseline(repository)
    was = repository.read_config(name)
    meant = groups.resolved(was, client.config(name))
    assert groups.why_not(meant) == ""
    file = baseline.of(name, client.config(name))
    assert not file.edited
    assert file.owner == settings_of(client.config(name))
    least = groups.least_count(meant)
    for count in (3, max(1, least), 3, least):
        now = settings_of(client.config(name))
        action = actuator.apply(name, replace(now, instances=count), reason="test", tick_id="t")
        if count != now.instances:
            assert action.outcome is Outcome.APPLIED, action.error
        assert settings_of(client.config(name)) == replace(now, instances=count)
        assert client.infer(name, X)["y"].tolist() == [[2.0] * 4]
        seen = baseline.of(name, client.config(name))
        assert not seen.edited
        assert seen.owner == file.owner
    now = repository.read_config(name)
    for config in (was, now):
        for group in config.instance_group:
            group.ClearField("count")
    if not was.instance_group:
        was.instance_group.add()
    assert now == was
    assert pending.read(repository, name) is None


@pytest.mark.parametrize("name", ["raises", "separate_errors"])
@pytest.mark.parametrize("size", [32, 8])
def test_a_batch_that_the_model_refuses_is_rolled_back(served, name: str, size: int) -> None:
    """One row is answered, the new largest batch is not: the old bytes are back, the limit told."""
    repository, client, _ = served
    before, now = repository.config_text(name), settings_of(client.config(name))
    wanted = replace(now, max_batch_size=size)
    action = Actuator(repository, client).apply(name, wanted, reason="REBATCH", tick_id="t")
    assert action.outcome is Outcome.ROLLED_BACK
    assert action.refused_rows == size
    assert f"a batch of {size} rows" in action.error
    assert "scratch space holds 4" in action.error
    assert repository.config_text(name) == before
    assert settings_of(client.config(name)) == now
    assert client.infer(name, X)["y"].tolist() == [[2.0] * 4]
    assert client.index()[name] == "READY"
    assert pending.read(repository, name) is None


def test_a_count_is_changed_without_asking_the_largest_batch(served) -> None:
    """It would wait in the queue that more instances are to shorten."""
    repository, client, _ = served
    now = settings_of(client.config("raises"))
    action = Actuator(repository, client).apply(
        "raises", replace(now, instances=now.instances + 1), reason="test"
    )
    assert action.outcome is Outcome.APPLIED
    assert max(client.statistics("raises").batches) <= 4
