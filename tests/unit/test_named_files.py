"""Files that a config names: which of them Triton may open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving import named_files
from serving.model_config import parse

LABELS = 'name: "m" output {{ name: "y" data_type: TYPE_FP32 dims: [4] label_filename: "{}" }}'
WARM_UP = 'name: "m" model_warmup {{ inputs {{ key: "x" value {{ input_data_file: "{}" }} }} }}'
STATE = (
    'name: "m" sequence_batching {{ state {{ initial_state {{ name: "s" data_type: TYPE_FP32'
    ' dims: [2, 2] data_file: "{}" }} }} }}'
)
PLACES = {"": LABELS, "warmup": WARM_UP, "initial_state": STATE}


def found(root: Path, place: str, name: str) -> list[str]:
    """The faults of a model whose config names this file in this place."""
    (root / "m" / place).mkdir(parents=True, exist_ok=True)
    return list(named_files.faults(root, parse(PLACES[place].format(name))))


@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_the_model_is_no_fault(tmp_path: Path, place: str) -> None:
    """Also where the model, or the file, is a link: large files are often kept elsewhere."""
    folder = tmp_path / "m" / place
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.bin").write_bytes(16 * b"x")
    (tmp_path / "store").write_bytes(16 * b"x")
    (folder / "b.bin").symlink_to(tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "m").symlink_to(tmp_path / "m")
    for root in (tmp_path, tmp_path / "elsewhere"):
        assert found(root, place, "sub/a.bin") == []
        assert found(root, place, "b.bin") == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../secret.txt", "leads out"),
        ("kernel", "has 0 bytes"),
        ("large", "must have 1 to"),
        ("gone.txt", "is not there"),
        (".", "regular file"),
        ("pipe", "regular file"),
        ("loop", "is not there"),
        ("x" * 5000, "is not there"),
        ("a\\000b", "is not there"),
    ],
)
def test_whatever_else_is_named_is_a_fault(
    tmp_path: Path, place: str, name: str, says: str
) -> None:
    """A folder ends Triton, a pipe hangs it, and labels are told to any client."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "m" / place
    folder.mkdir(parents=True)
    (folder / "kernel").symlink_to("/proc/self/mem")
    with (folder / "large").open("wb") as large:
        large.truncate(2**40)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (fault,) = found(tmp_path, place, name)
    assert says in fault


def test_an_absolute_path_is_a_fault(tmp_path: Path) -> None:
    """Triton would look for it below the folder of the model."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "labels.txt").write_text("a")
    (fault,) = found(tmp_path, "", f"{tmp_path}/other.txt")
    assert "leads out" in fault


@pytest.mark.parametrize(("size", "fits"), [(16, True), (15, False), (17, False), (0, False)])
def test_an_initial_state_is_of_its_tensors_size(tmp_path: Path, size: int, fits: bool) -> None:
    """2 x 2 of FP32; Triton ends on another now and then."""
    (tmp_path / "m" / "initial_state").mkdir(parents=True)
    (tmp_path / "m" / "initial_state" / "a").write_bytes(size * b"x")
    faults = found(tmp_path, "initial_state", "a")
    assert (faults == []) is fits
    assert fits or "must have 1" in faults[0]


@pytest.mark.parametrize("kind", ["TYPE_STRING", "TYPE_BF16", "TYPE_INVALID", "99"])
def test_a_state_of_any_type_has_a_size_or_none(tmp_path: Path, kind: str) -> None:
    """Strings are as long as they are."""
    (tmp_path / "m" / "initial_state").mkdir(parents=True)
    (tmp_path / "m" / "initial_state" / "a").write_bytes(8 * b"x")
    text = STATE.format("a").replace("TYPE_FP32", kind)
    assert list(named_files.faults(tmp_path, parse(text))) == []


@pytest.mark.parametrize(
    ("folder", "file", "hangs"),
    [
        ("1700000000000000000", "1700000000000000000", False),
        ("1700000000000000000", "1", True),
        (20 * "9", "1", False),
    ],
)
def test_a_version_is_any_whole_number_of_64_bits(
    tmp_path: Path, folder: str, file: str, hangs: bool
) -> None:
    """A time in nanoseconds is one; what is larger is none."""
    for name in {folder, file}:
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / file / "model.py").write_text("")
    config = parse('name: "m" backend: "python"')
    assert bool(list(named_files.faults(tmp_path, config))) is hangs
