"""The repository on disk: whole or not at all, every text remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from conch.errors import ConfigError, RepositoryError
from serving import model_config
from serving.model_config import ModelConfig
from serving.repository import Repository

OLD = 'name: "m"\nmax_batch_size: 8\n'


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with the model ``m`` as a user wrote it."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"x")
    (tmp_path / "m" / "config.pbtxt").write_text(OLD)
    return Repository(tmp_path)


def _batch(size: int) -> ModelConfig:
    return ModelConfig(name="m", max_batch_size=size)


def _files(root: Path) -> set[str]:
    """Every file outside our own state."""
    return {
        str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and ".conch" not in p.parts
    }


def test_write_config_replaces_the_file_and_remembers_both_texts(repository: Repository) -> None:
    """The text found on disk is a revision too: it can be brought back."""
    repository.write_config("m", _batch(4), reason="test", tick_id="t1")
    assert repository.read_config("m").max_batch_size == 4
    log = repository.revisions("m").all()
    assert [(r.number, r.reason, r.tick_id) for r in log] == [
        (1, "found on disk", ""),
        (2, "test", "t1"),
    ]
    assert repository.revisions("m").text(1) == OLD


def test_write_config_of_the_same_is_no_write(repository: Repository) -> None:
    """Applying the same twice adds no revision and does not touch the file."""
    first = repository.write_config("m", _batch(4), reason="a")
    stamp = repository.config_path("m").stat().st_mtime_ns
    assert repository.write_config("m", _batch(4), reason="b") == first
    assert repository.config_path("m").stat().st_mtime_ns == stamp


def test_write_config_leaves_no_stray_file_in_the_model_directory(repository: Repository) -> None:
    """A temporary file there would turn an in-place update into a reload."""
    repository.write_config("m", _batch(4), reason="a")
    assert _files(repository.root) == {"m/config.pbtxt", "m/1/model.onnx"}


@pytest.mark.parametrize("point", ["revision.text.temp_written", "repository.config.temp_written"])
def test_write_config_on_a_full_disk_changes_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The old file stays whole, the error says what to do, no temporary file stays."""
    monkeypatch.setenv("CONCH_FAILPOINT", f"{point}=enospc")
    with pytest.raises(RepositoryError, match="No space left") as caught:
        repository.write_config("m", _batch(4), reason="a")
    assert "Free some space" in caught.value.hint
    assert repository.config_text("m") == OLD
    assert list((repository.state / "tmp").iterdir()) == []


def test_write_config_goes_on_after_a_full_disk(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is space the same call works."""
    monkeypatch.setenv("CONCH_FAILPOINT", "repository.config.temp_written=enospc")
    with pytest.raises(RepositoryError):
        repository.write_config("m", _batch(4), reason="a")
    monkeypatch.delenv("CONCH_FAILPOINT")
    repository.write_config("m", _batch(4), reason="a")
    assert repository.read_config("m").max_batch_size == 4


@pytest.mark.parametrize(
    "name", ["../m", "a/b", "a;rm -rf", "$(x)", "", ".hidden", "a..b", "x" * 129]
)
def test_repository_refuses_dangerous_names(repository: Repository, name: str) -> None:
    """A name goes into paths and, in Triton, into a shell line."""
    with pytest.raises(ConfigError, match="model name"):
        repository.write_config(name, _batch(4), reason="a")


def test_read_config_refuses_a_broken_file(repository: Repository) -> None:
    """A config that a person broke is named with its place."""
    repository.config_path("m").write_text("max_batch_size: eight")
    with pytest.raises(ConfigError, match=r"m/config\.pbtxt.*1:17"):
        repository.read_config("m")


def test_read_config_refuses_another_models_name(repository: Repository) -> None:
    """A copied folder with the old name inside would confuse Triton."""
    repository.config_path("m").write_text('name: "n"')
    with pytest.raises(ConfigError, match='must be "m"'):
        repository.read_config("m")


def test_read_and_write_keep_line_ends(repository: Repository) -> None:
    """A file from another system comes back byte for byte."""
    text = 'name: "m"\r\nmax_batch_size: 8\r\n'
    repository.config_path("m").write_bytes(text.encode())
    repository.write_config("m", _batch(4), reason="a")
    repository.restore("m", repository.revisions("m").text(1), reason="b", tick_id="")
    assert repository.config_path("m").read_bytes() == text.encode()


def test_a_damaged_revision_is_left_out(repository: Repository) -> None:
    """One bad record does not hide the others, nor stop a write."""
    repository.write_config("m", _batch(4), reason="a")
    record = repository.state / "revisions" / "m" / "000001.json"
    record.write_text("{ half a rec")
    assert [r.number for r in repository.revisions("m").all()] == [2]
    assert repository.write_config("m", _batch(5), reason="b").number == 3


def test_restore_works_when_there_is_no_room_for_its_revision(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old text in force matters more than its entry in the history."""
    repository.write_config("m", _batch(4), reason="a")
    monkeypatch.setenv("CONCH_FAILPOINT", "revision.text.temp_written=enospc")
    repository.restore("m", OLD, reason="rolled back", tick_id="")
    assert repository.config_text("m") == OLD


def test_repository_names_the_models_it_has(repository: Repository) -> None:
    """A model that is not there is answered with those that are."""
    with pytest.raises(ConfigError, match="it has: m"):
        repository.read_config("n")


def _publish(repository: Repository, tmp_path: Path, content: bytes, name: str = "new") -> int:
    source = tmp_path / "source.onnx"
    source.write_bytes(content)
    config = ModelConfig(name=name, max_batch_size=2)
    return repository.publish(name, config, {"model.onnx": source}, {"from": "test"})


def test_publish_makes_a_whole_model(repository: Repository, tmp_path: Path) -> None:
    """Config, version and lineage appear together."""
    assert _publish(repository, tmp_path, b"one") == 1
    assert (repository.root / "new" / "1" / "model.onnx").read_bytes() == b"one"
    assert (repository.root / "new" / "1" / "lineage.json").is_file()
    assert repository.models() == ["m", "new"]


def test_publish_of_other_bytes_adds_a_version(repository: Repository, tmp_path: Path) -> None:
    """The old version stays; the same bytes again add none."""
    _publish(repository, tmp_path, b"one")
    assert _publish(repository, tmp_path, b"two") == 2
    assert _publish(repository, tmp_path, b"two") == 2
    assert repository.versions("new") == [1, 2]


@pytest.mark.parametrize("point", ["repository.publish.copy", "repository.publish.staged"])
def test_publish_on_a_full_disk_leaves_nothing(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Neither a model directory nor a staged copy stays behind."""
    monkeypatch.setenv("CONCH_FAILPOINT", f"{point}=enospc")
    with pytest.raises(RepositoryError, match="No space left"):
        _publish(repository, tmp_path, b"one")
    assert repository.models() == ["m"]
    assert not (repository.root / "new").exists()
    assert list((repository.state / "tmp").iterdir()) == []


def test_publish_refuses_a_folder_that_is_not_a_model(
    repository: Repository, tmp_path: Path
) -> None:
    """A user's folder of that name is never deleted."""
    (repository.root / "new").mkdir()
    (repository.root / "new" / "notes.txt").write_text("mine")
    with pytest.raises(RepositoryError, match=r"has no config\.pbtxt"):
        _publish(repository, tmp_path, b"one")
    assert (repository.root / "new" / "notes.txt").read_text() == "mine"


def test_to_text_round_trips_through_the_disk(repository: Repository) -> None:
    """What is written is what is read."""
    config = model_config.parse('name: "m" max_batch_size: 3 dynamic_batching { }')
    repository.write_config("m", config, reason="a")
    assert repository.read_config("m") == config
