"""The published files and lineage; a disk that refuses leaves nothing half-written."""

import dataclasses
import datetime
import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from conch.errors import ConfigError, RepositoryError
from export import hashing, publish, recipe
from export.parity import at_least
from export.report import VariantReport
from export.steps import Artifact, Form
from serving import model_config
from tests.unit.test_export_recipe import WHOLE
from tests.unit.toy_variants import accepted, artifact, repository, served, two_variants, visible

__all__ = ["artifact", "repository"]


def test_external_data_keeps_its_place_and_its_version(repository, tmp_path):
    """The model file names it by its relative path."""
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    for name in ("whole.onnx", "w.bin", "sub/w.bin"):
        (made / name).write_bytes(name.encode())
    extra = (made / "w.bin", made / "sub" / "w.bin")
    artifact = Artifact(form=Form.ONNX, path=made / "whole.onnx", extra=extra)
    typed = served()
    for _ in range(2):  # the second time nothing is new
        (found,) = publish.variants(typed, tmp_path, [accepted(typed, 0, artifact)])
        assert publish.put(repository, found) == [1]
    folder = repository.root / "toy_fp32" / "1"
    assert (folder / "sub" / "w.bin").read_bytes() == b"sub/w.bin"
    assert (folder / "w.bin").read_bytes() == b"w.bin"
    (made / "sub" / "w.bin").write_bytes(b"other")
    (found,) = publish.variants(typed, tmp_path, [accepted(typed, 0, artifact)])
    assert publish.put(repository, found) == [2]
    outside = tmp_path / "w.bin"
    with pytest.raises(ConfigError, match=r"would be published as w\.bin"):
        publish.version_files(dataclasses.replace(artifact, extra=(*extra, outside)))


def test_versions_that_cannot_be_written_change_nothing(repository, tmp_path, monkeypatch):
    """Not even the first of them is left."""
    typed = served(layout="versions")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    before = visible(repository)
    (found,) = two_variants(typed, tmp_path, b"c", b"d")
    monkeypatch.setenv("CONCH_FAILPOINT", "repository.config.temp_written=enospc")
    typed_before = repository.config_text("toy")
    with pytest.raises(RepositoryError, match="No space left"):
        publish.put(repository, found)
    assert visible(repository) == before
    assert repository.config_text("toy") == typed_before


@pytest.mark.parametrize("point", ["repository.publish.copy", "repository.publish.staged"])
def test_a_killed_publish_leaves_nothing_after_the_next_one(repository, artifact, point):
    """kill -9 in the middle: Triton sees nothing of it, and the next publish of it cleans up."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_int8")
    code = (
        "import sys; from pathlib import Path; from serving import model_config; "
        "from serving.repository import Repository; "
        "Repository(Path(sys.argv[1])).publish('toy_int8', model_config.parse(sys.argv[2]), "
        "{'model.onnx': Path(sys.argv[3])}, {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository.root), model_config.to_text(config),
         str(artifact.file)],
        env={**os.environ, "CONCH_FAILPOINT": f"{point}=kill"}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert visible(repository) == {}
    aside = repository.state / "tmp"
    assert [path.name.partition(".")[0] for path in aside.iterdir()] == ["toy_int8"]
    foreign = aside / f"toy_int8.v2.{'0' * 32}"  # of another model, whose lock we do not hold
    foreign.mkdir()
    assert repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {}) == 1
    assert list(aside.iterdir()) == [foreign]


def test_lineage_tells_where_the_file_comes_from_and_why_it_was_let_in(artifact):
    """Hash, seed, versions, steps, gates with their numbers."""
    found = publish.lineage(
        recipe.loads(WHOLE),
        recipe_sha256="abc",
        report=VariantReport(
            name="int8",
            published_name="toy_int8",
            steps=("to_onnx", "quantize dynamic"),
            gates=(at_least("fidelity.cosine", 0.99, 0.98),),
        ),
        artifact=artifact,
        now=datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
    )
    assert found["published_at"] == "2026-11-21T00:00:00+00:00"
    assert found["files"] == {"model.onnx": hashing.file_sha256(artifact.file)}
    assert found["variant"] == "int8"
    assert found["steps"] == ["to_onnx", "quantize dynamic"]
    assert found["gates"][0] == {
        "gate": "fidelity.cosine", "value": 0.99, "sense": "at least", "limit": 0.98, "unit": "",
    }  # fmt: skip
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(found["versions"])


@pytest.mark.parametrize(
    ("fails", "published_before"),
    [("copyfile", False), ("copyfile", True), ("fsync", False), ("fsync", True),
     ("config", False), ("config", True), ("replace", True)],
)  # fmt: skip
def test_full_disk_leaves_nothing_half_written(
    repository, artifact, monkeypatch, fails, published_before
):
    """Whatever write hits the end of the disk, the repository is as it was before."""
    typed = recipe.loads(WHOLE)
    config = publish.triton_config(typed, "toy_int8")
    if published_before:
        repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {"first": True})
        artifact.file.write_bytes(b"other weights")
    before = visible(repository)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def refused(*_args, **_kwargs):
        raise RepositoryError("config.pbtxt: No space left on device.")

    original_write = type(artifact.file).write_text

    def full_for_config(path, *args, **kwargs):
        return full() if path.name == "config.pbtxt" else original_write(path, *args, **kwargs)

    if fails == "copyfile":
        monkeypatch.setattr(shutil, "copyfile", full)
    elif fails == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif fails == "config":
        monkeypatch.setattr(type(artifact.file), "write_text", full_for_config)
    else:
        monkeypatch.setattr(type(repository), "write_text", refused)
    with pytest.raises(RepositoryError, match="No space left"):
        repository.publish("toy_int8", config, {"model.onnx": artifact.file}, {"second": True})
    assert visible(repository) == before
