"""Configs that end Triton 2.51, or keep its start waiting for ever, without any shell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conch.errors import TritonUnavailable
from serving import check, hazards
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import StartServer
from tests.integration.load import ONES

LABELS = 'output {{ name: "z" data_type: TYPE_FP32 dims: [4] label_filename: "{}" }}'
WARM_UP = (
    'model_warmup {{ name: "w" batch_size: 1 {} inputs {{ key: "x"'
    " value {{ data_type: TYPE_FP32 dims: [4] {} }} }} }}"
)
STATE = (
    'sequence_batching {{ state {{ input_name: "si" output_name: "so" data_type: TYPE_FP32'
    ' dims: [4] initial_state {{ name: "i" data_type: TYPE_FP32 dims: [4] data_file: "{}" }} }} }}'
)
ENDS, WAITS = "ended", "not live"
DEADLY = {
    "labels_folder": (LABELS.format("1"), ENDS),
    "labels_pipe": (LABELS.format("pipe"), WAITS),
    "warm_up_folder": (WARM_UP.format("", 'input_data_file: "."'), ENDS),
    "warm_up_pipe": (WARM_UP.format("", 'input_data_file: "pipe"'), WAITS),
    "warm_up_for_ever": (WARM_UP.format("count: 4000000000", "zero_data: true"), WAITS),
    "state_folder": (STATE.format("."), ENDS),
    "tag": ('metric_tags { key: "_x" value: "v" }', ENDS),
}


def publish(root: Path, name: str) -> None:
    """A model with one of these at the end of its config, and pipes wherever one may be named."""
    scripted.publish(root, name)
    folder = root / name
    for place in ("", "warmup", "initial_state"):
        (folder / place).mkdir(exist_ok=True)
        os.mkfifo(folder / place / "pipe")
    text = (folder / "config.pbtxt").read_text()
    if name.startswith("state"):
        text = text.replace("dynamic_batching { }\n", "")
    (folder / "config.pbtxt").write_text(text + DEADLY[name][0])


def publish_circle(root: Path) -> set[str]:
    """Two ensembles that are made of one another, and one around them; gives their names."""
    for name, member in (("outer", "one"), ("one", "other"), ("other", "one")):
        scripted.publish_ensemble(root, name, member)
    return {"outer", "one", "other"}


def test_the_others_are_served(
    tmp_path: Path, start_server: StartServer, connect: Callable[[TritonServer], TritonClient]
) -> None:
    """All of them in one repository: each is left out with a line, and `repo check` agrees."""
    names = publish_circle(tmp_path)
    for name in DEADLY:
        publish(tmp_path, name)
    scripted.publish(tmp_path, "harmless")
    server = start_server(tmp_path)
    assert {m.name: m.reason for m in server.models if m.left_out}.keys() == names | DEADLY.keys()
    assert [m.name for m in server.models if m.ready] == ["harmless"]
    assert connect(server).infer("harmless", {"x": ONES})
    faults = {f.model for f in check.check(Repository(tmp_path)) if f.severity == "fault"}
    assert faults == names | DEADLY.keys()


@pytest.mark.parametrize("name", [*DEADLY, "circle"])
def test_what_it_does_to_2_51(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given to Triton past our own check: why there is one. When this fails, it is mended there."""
    root = tmp_path / "repository"
    root.mkdir()
    scripted.publish(root, "harmless")
    says = ENDS
    if name == "circle":
        publish_circle(root)
    else:
        publish(root, name)
        says = DEADLY[name][1]
    monkeypatch.setattr(hazards, "left_out", lambda _: {})
    server = TritonServer(
        root,
        log_path=tmp_path / "log" / "triton.log",
        restart=False,
        exit_timeout_s=0,
        start_timeout_s=60.0 if says == ENDS else 8.0,
    )
    with pytest.raises(TritonUnavailable, match=says), server:
        pass
