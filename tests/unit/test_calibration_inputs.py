"""Inputs that an owner gives for measuring: read, checked against the config, and repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conch.errors import ConfigError
from control.act.calibration_inputs import batch_of, read
from serving.model_config import parse

CONFIG = parse("""
name: "m"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] },
        { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] },
        { name: "text" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]
""")
X = np.array([[1, 2], [3, 4]], np.float32)
IDS = np.array([[5, 6, 7], [8, 9, 10]], np.int64)


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


def _json(folder: Path, **lists: Any) -> Path:
    (folder / "rows.json").write_text(json.dumps(lists))
    return folder / "rows.json"


def test_rows_of_either_file_are_what_triton_takes(tmp_path: Path) -> None:
    """JSON has no types of its own: whole numbers become floats where these are wanted."""
    texts = [["a"], ["ü"]]
    arrays = read(_npz(tmp_path, x=X, ids=IDS, text=np.array(texts))).fitting(CONFIG)
    lists = read(_json(tmp_path, x=[[1, 2], [3, 4]], ids=IDS.tolist(), text=texts)).fitting(CONFIG)
    for made in (arrays, lists):
        assert made["x"].dtype == np.float32
        assert made["x"].tolist() == X.tolist()
        assert made["ids"].dtype == np.int64
        assert made["ids"].tolist() == IDS.tolist()
        assert made["text"].tolist() == [[b"a"], ["ü".encode()]]
        assert made["text"].dtype == np.object_
    assert "text" not in read(_npz(tmp_path, x=X, ids=IDS)).fitting(CONFIG)  # it is optional


def test_a_batch_takes_the_rows_again_and_again() -> None:
    """Of two rows, five."""
    assert batch_of({"x": X}, 5)["x"][:, 0].tolist() == [1, 3, 1, 3, 1]
    assert batch_of({"x": X}, 1)["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("made", "rows", "says"),
    [
        (_npz, {"x": X}, r"no rows of 'ids', an input of m"),
        (_npz, {"x": X, "ids": IDS, "y": X}, r"input 'y', m has x, ids, text"),
        (_npz, {"x": X.astype(np.float64), "ids": IDS}, r"'x': float64, must be float32"),
        (_npz, {"x": X[0], "ids": IDS}, r"'x': shape \[2\], must be \[rows, 2\]"),
        (_npz, {"x": X[:, :1], "ids": IDS}, r"'x': shape \[2, 1\], must be \[rows, 2\]"),
        (_npz, {"x": X[:0], "ids": IDS[:0]}, r"'x': shape \[0, 2\], must be \[rows, 2\]"),
        (_npz, {"x": X[:1], "ids": IDS}, r"rows: 1 of x, 2 of ids, must be as many of each"),
        (_npz, {"x": X, "ids": IDS, "text": X[:, :1]}, r"'text': float32, must be texts"),
        (_json, {"x": [[1, 2]], "ids": [[1.5]]}, r"'ids': float64, must be int64"),
        (_json, {"x": [["a", "b"]], "ids": [[1]]}, r"'x': <U1, must be float32"),
    ],
)
def test_rows_that_do_not_fit_are_named(
    tmp_path: Path, made: Any, rows: dict[str, Any], says: str
) -> None:
    """What was seen, and what the config asks for."""
    with pytest.raises(ConfigError, match=says) as caught:
        read(made(tmp_path, **rows)).fitting(CONFIG)
    assert caught.value.message.startswith(f"calibrate: {tmp_path}")


def test_a_whole_number_beyond_its_type_is_named(tmp_path: Path) -> None:
    """-1 is no byte."""
    config = parse('name: "m" max_batch_size: 4 input { name: "b" data_type: TYPE_UINT8 dims: 1 }')
    with pytest.raises(ConfigError, match=r"'b': -1 to 3, must fit into uint8"):
        read(_json(tmp_path, b=[[-1], [3]])).fitting(config)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.npz", None, r"none\.npz: cannot be read \(No such file"),
        ("a.npz", b"no archive", r"no \.npz file of rows"),
        ("a.json", b"{", r"no \.json file of rows"),
        ("a.json", b"[1]", r"list, must be an object, by input name"),
        ("a.json", b'{"x": [[1], [1, 2]]}', r"no \.json file of rows"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """Missing, broken, or something else."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read(tmp_path / name)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    """Pickles run code."""
    with pytest.raises(ConfigError, match=r"no \.npz file of rows"):
        read(_npz(tmp_path, x=np.array([["a"]], np.object_)))
