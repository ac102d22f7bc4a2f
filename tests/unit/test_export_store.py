"""Finished stages are found again whole, or not at all."""

from __future__ import annotations

import json

import filelock
import pytest

from conch.errors import RepositoryError
from export.keys import digest
from export.steps import Artifact, Form
from export.store import STAGE_FILE, Store, facts

KEY = digest("a stage")


def finish(store: Store, text: str = "graph", **changes) -> None:
    """Run a stage that writes one file."""
    folder, _ = store.begin(KEY)
    path = folder / "model.onnx"
    path.write_text(text)
    artifact = Artifact(form=Form.ONNX, path=path, facts={"opset": 20}, **changes)
    store.finish(KEY, artifact, folder=folder, seconds=1.5)


def test_what_was_finished_is_found_with_its_files_and_facts(tmp_path):
    """From another Store object, as another process would."""
    finish(Store(tmp_path))
    found = Store(tmp_path).get(KEY)
    assert found.artifact.file.read_text() == "graph"
    assert found.artifact.facts == {"opset": 20}
    assert found.seconds == 1.5
    assert set(found.files) == {"model.onnx"}


def test_unknown_key_finds_nothing(tmp_path):
    """Nor does it make a folder."""
    assert Store(tmp_path / "none").get(KEY) is None
    assert not (tmp_path / "none").exists()


def test_stage_cut_short_is_not_found_and_its_folder_is_emptied(tmp_path):
    """A kill in the middle leaves files, but no result; checkpoints stay."""
    store = Store(tmp_path)
    folder, scratch = store.begin(KEY)
    (folder / "model.onnx").write_text("half")
    (scratch / "checkpoint.pt").write_text("step 40")
    assert store.get(KEY) is None
    again, kept = store.begin(KEY)
    assert list(again.iterdir()) == []
    assert (kept / "checkpoint.pt").read_text() == "step 40"


def test_checkpoints_go_when_the_stage_is_done(tmp_path):
    """They never belong to the result."""
    store = Store(tmp_path)
    _, scratch = store.begin(KEY)
    (scratch / "checkpoint.pt").write_text("step 40")
    finish(store)
    assert not scratch.exists()


@pytest.mark.parametrize("damage", ["truncate", "remove", "garble", "[]", "no_keys", "strange"])
def test_damaged_stage_is_built_again(tmp_path, damage):
    """A file of another size, a missing one, a record that is no JSON or of another make."""
    store = Store(tmp_path)
    finish(store)
    folder = store.get(KEY).artifact.file.parent
    if damage == "truncate":
        (folder / "model.onnx").write_text("gr")
    elif damage == "remove":
        (folder / "model.onnx").unlink()
    elif damage == "strange":
        record = json.loads((folder / STAGE_FILE).read_text())
        (folder / STAGE_FILE).write_text(json.dumps(record | {"form": "tape"}))
    else:
        text = {"garble": "{", "no_keys": "{}"}.get(damage, damage)
        (folder / STAGE_FILE).write_text(text)
    assert store.get(KEY) is None
    finish(store)
    assert store.get(KEY).artifact.file.read_text() == "graph"


def test_file_of_another_stage_is_linked_into_this_one(tmp_path):
    """A step that passes its input on must survive the removal of the other stage."""
    store = Store(tmp_path)
    other = tmp_path / "elsewhere.onnx"
    other.write_text("graph")
    folder, _ = store.begin(KEY)
    store.finish(KEY, Artifact(form=Form.ONNX, path=other), folder=folder, seconds=0.0)
    other.unlink()
    assert store.get(KEY).artifact.file.read_text() == "graph"


def test_stray_files_are_not_kept(tmp_path):
    """What a tool leaves beside the model."""
    store = Store(tmp_path)
    folder, _ = store.begin(KEY)
    (folder / "prepared.onnx").write_text("x")
    finished = store.finish(KEY, facts(value=1), folder=folder, seconds=0.0)
    assert finished.files == {}
    assert finished.artifact.facts == {"value": 1}
    assert [path.name for path in (tmp_path / KEY[:24]).iterdir()] == [STAGE_FILE]


def test_record_of_another_schema_is_ignored(tmp_path):
    """Work folders outlive versions of Conch."""
    store = Store(tmp_path)
    finish(store)
    path = tmp_path / KEY[:24] / STAGE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 999}))
    assert store.get(KEY) is None


def test_stages_that_no_plan_names_can_be_removed(tmp_path):
    """And only those."""
    store = Store(tmp_path)
    finish(store)
    assert store.remove_others({KEY}) == 0
    assert store.get(KEY) is not None
    assert store.remove_others(set()) > 0
    assert store.get(KEY) is None


def test_second_run_in_one_folder_is_refused(tmp_path):
    """It would empty the folders that the first is writing to."""
    store = Store(tmp_path / "stages")
    with store.lock(), Store(tmp_path / "stages").lock():  # nested in one run
        other = filelock.FileLock(tmp_path / "stages.lock", timeout=0)
        with pytest.raises(filelock.Timeout):
            other.acquire()
    with (
        filelock.FileLock(tmp_path / "stages.lock"),
        pytest.raises(RepositoryError, match="another run of this recipe is at work in"),
        store.lock(),
    ):
        pytest.fail("two runs at once")
    with store.lock():
        assert not store.root.exists()
