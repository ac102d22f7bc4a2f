"""Whose config is on disk: edits that are not in force, touches that are none, the owner's text."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from control.act.baseline import Baseline
from control.act.knobs import settings_of, with_settings
from serving import groups, model_config
from serving.model_config import ModelConfig
from serving.repository import Repository

FILE = """# mine
backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
parameters { key: "a" value { string_value: "1" } }
"""


def as_triton_shows(text: str) -> ModelConfig:
    """What Triton 2.51 answers for a config that it has loaded."""
    shown = model_config.parse(text)
    shown.name = "m"
    shown.version_policy.latest.num_versions = 1
    shown.default_model_filename = "model.py"
    shown.optimization.input_pinned_memory.enable = True
    for number, group in enumerate(shown.instance_group):
        group.name = group.name or f"m_{number}"
        group.count = group.count or 1
        group.kind = group.kind or 2
    if shown.HasField("dynamic_batching") and not shown.dynamic_batching.preferred_batch_size:
        shown.dynamic_batching.preferred_batch_size.append(shown.max_batch_size)
    return shown


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With one model, as its owner wrote it."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(FILE)
    return Repository(tmp_path)


def write(repository: Repository, text: str) -> None:
    """An editor's save."""
    path = repository.root / "m" / "config.pbtxt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1000, before + 1000))


EDITS: dict[str, Callable[[str], str]] = {
    "a delay": lambda t: t.replace("ing { }", "ing { max_queue_delay_microseconds: 9000 }"),
    "a count": lambda t: t.replace("count: 1", "count: 2"),
    "a parameter": lambda t: t.replace('"1"', '"2"'),
    "a new parameter": lambda t: t + 'parameters { key: "b" value { string_value: "" } }',
    "a parameter gone": lambda t: t[: t.index("parameters")],
    "a queue limit": lambda t: t.replace("{ }", "{ default_queue_policy { max_queue_size: 1 } }"),
    "a warm-up": lambda t: t + 'model_warmup { name: "w" batch_size: 1 }',
    "the priority": lambda t: t + "optimization { priority: PRIORITY_MAX }",
    "an input": lambda t: t.replace('"x"', '"z"'),
    "another kind": lambda t: t.replace("KIND_CPU", "KIND_MODEL") + "#",
    "an empty cache": lambda t: t + "response_cache { enable: true }",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("history", [True, False], ids=["after changes", "never changed"])
def test_an_edit_is_seen_until_it_is_loaded_or_taken_back(
    repository: Repository, edit: Callable[[str], str], history: bool
) -> None:
    """By its content, whether Triton shows it or not."""
    if history:
        repository.write_text("m", FILE + "\n", reason="SCALE_UP_LOAD", tick_id="t")
    shown = as_triton_shows(FILE)
    baseline = Baseline(repository)
    assert not baseline.of("m", shown).edited
    now = repository.config_text("m")
    write(repository, edit(now))
    assert baseline.of("m", shown).edited
    write(repository, now)
    assert not baseline.of("m", shown).edited
    write(repository, edit(now))
    assert baseline.of("m", shown).edited
    loaded = as_triton_shows(edit(now))
    assert not baseline.of("m", loaded).edited
    assert baseline.of("m", loaded).owner == settings_of(loaded)
    if history:  # and a controller that starts then sees it, too
        assert Baseline(repository).of("m", shown).edited
        assert not Baseline(repository).of("m", loaded).edited


@pytest.mark.parametrize("text", ["garbage {{{", "", "\x00", None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_an_edit(
    repository: Repository, text: str | bytes | None
) -> None:
    """Nothing may be written over it; it is none any more when it is mended."""
    shown, path = as_triton_shows(FILE), repository.config_path("m")
    baseline = Baseline(repository)
    owner = baseline.of("m", shown).owner
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert baseline.of("m", shown).edited
    assert baseline.of("m", shown).owner == owner
    write(repository, FILE)
    assert not baseline.of("m", shown).edited


def test_a_touch_a_comment_or_another_layout_is_no_edit(repository: Repository) -> None:
    """What Triton would do with it is the same."""
    shown, baseline = as_triton_shows(FILE), Baseline(repository)
    assert not baseline.of("m", shown).edited
    for text in (FILE, "# new\n" + FILE, model_config.to_text(repository.read_config("m"))):
        write(repository, text)
        assert not baseline.of("m", shown).edited


def test_the_owner_is_who_wrote_the_newest_text_that_is_not_ours(repository: Repository) -> None:
    """Ticks, their rollbacks and reverts are ours, also in a controller that starts later."""
    original = settings_of(as_triton_shows(FILE))

    def change(text: str, **why: str) -> None:
        repository.write_text("m", text, **{"tick_id": "", **why})

    def owner() -> object:
        shown = as_triton_shows(repository.config_text("m"))
        later = Baseline(repository).of("m", shown)
        assert baseline.of("m", shown) == later
        assert not later.edited
        return later.owner

    baseline = Baseline(repository)
    assert owner() == original
    ours = FILE.replace("count: 1", "count: 3")
    change(ours, reason="SCALE_UP_LOAD", tick_id="t1")
    assert owner() == original
    change(FILE.replace("8", "16"), reason="REBATCH", tick_id="t2")
    change(ours, reason="rolled back: no", tick_id="t2")
    assert owner() == original
    change(FILE.replace("count: 1", "count: 2"), reason="reverted: died")
    assert owner() == original
    write(repository, FILE.replace("count: 1", "count: 4"))  # and loaded
    assert owner() == replace(original, instances=4)
    change(FILE.replace("count: 1", "count: 5"), reason="SCALE_UP_LOAD", tick_id="t3")
    assert owner() == replace(original, instances=4)
    change(FILE, reason="rolled back by hand to revision 1")
    assert owner() == original
    change(FILE.replace("count: 1", "count: 6"), reason="published version 2")
    assert owner() == replace(original, instances=6)


def test_a_rollback_without_room_for_its_revision_makes_nobody_an_owner(
    repository: Repository,
) -> None:
    """The next change finds our own text on disk; that is not the owner's."""
    ours = FILE.replace("count: 1", "count: 3")
    repository.write_text("m", ours, reason="A", tick_id="t1")
    repository.write_text("m", ours.replace("count: 3", "count: 4"), reason="B", tick_id="t2")
    write(repository, ours)
    repository.write_text("m", ours.replace("count: 3", "count: 5"), reason="C", tick_id="t3")
    shown = as_triton_shows(repository.config_text("m"))
    assert Baseline(repository).of("m", shown).owner == settings_of(as_triton_shows(FILE))


def test_the_owner_of_an_open_count_gets_tritons_default(repository: Repository) -> None:
    """Not the count that we have written since."""
    open_count = FILE.replace("count: 1 ", "")
    write(repository, open_count)
    repository.write_text("m", FILE.replace("count: 1", "count: 3"), reason="A", tick_id="t")
    shown = as_triton_shows(repository.config_text("m"))
    owner = Baseline(repository).of("m", shown).owner
    assert owner is not None
    assert (settings_of(shown).instances, owner.instances) == (3, 1)


def test_nothing_is_read_while_nothing_changes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick costs two questions to the disk."""
    shown, baseline = as_triton_shows(FILE), Baseline(repository)
    first = baseline.of("m", shown)
    monkeypatch.setattr(Repository, "config_text", lambda *_: pytest.fail("read again"))
    assert baseline.of("m", shown) is first


def test_a_file_that_triton_completes_from_the_model_is_in_force(repository: Repository) -> None:
    """Only a backend: inputs, batching and instances are Triton's; only a count is written."""
    write(repository, 'backend: "onnxruntime"')
    completed = as_triton_shows(FILE.replace("count: 1", "count: 2").replace("8", "4"))
    completed.parameters.clear()
    completed.backend = "onnxruntime"
    for _ in range(2):  # before a change of ours, and after it
        file = Baseline(repository).of("m", completed)
        assert not file.edited
        assert file.owner == replace(settings_of(completed), instances=2)
        on_disk = repository.read_config("m")
        meant = groups.resolved(on_disk, completed)
        now = settings_of(completed)
        new = with_settings(on_disk, replace(now, instances=now.instances + 1), meant=meant)
        repository.write_config("m", new, reason="SCALE_UP_LOAD", tick_id="t")
        completed.instance_group[0].count += 1
    assert model_config.to_text(new) == (
        'name: "m"\ninstance_group {\n  count: 4\n}\nbackend: "onnxruntime"\n'
    )


def test_an_edit_that_serves_more_versions_is_seen_until_they_are_loaded(
    repository: Repository,
) -> None:
    """A policy of all says nothing of numbers; what Triton serves does."""
    for number in ("1", "2"):
        folder = repository.root / "m" / number
        folder.mkdir(exist_ok=True)
        (folder / "model.py").touch()
    pinned = FILE + "version_policy { specific { versions: [1] } }"
    write(repository, pinned)
    shown = as_triton_shows(pinned)
    shown = model_config.with_versions(shown, [1])
    baseline = Baseline(repository)
    assert not baseline.of("m", shown).edited
    write(repository, FILE + "version_policy { all { } }")
    assert baseline.of("m", shown).edited
    assert not baseline.of("m", model_config.with_versions(shown, [1, 2])).edited
