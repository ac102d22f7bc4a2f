"""Finding a Triton: the one that is named, on the PATH, in the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from conch.errors import TritonUnavailable
from serving.runtime import find, wheel
from tests.unit.made_wheel import executable, own_cache

__all__ = ["own_cache"]


def test_find_prefers_the_named_binary_then_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONCH_TRITON, then PATH; the folders beside it are its backends and caches."""
    on_path = executable(tmp_path / "bin" / "tritonserver")
    assert (find.find().path, find.find().origin) == (on_path, "path")
    named = executable(tmp_path / "opt" / "bin" / "tritonserver")
    (tmp_path / "opt" / "TRITON_VERSION").write_text("2.74.0\n")
    (tmp_path / "opt" / "caches").mkdir()
    monkeypatch.setenv(find.ENV_BINARY, str(named))
    found = find.find()
    assert (found.path, found.origin, found.version) == (named, "env", "2.74.0")
    assert found.backends == tmp_path / "opt" / "backends"
    assert found.caches == tmp_path / "opt" / "caches"


def test_find_refuses_a_named_binary_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting is an error, never a silent fallback."""
    monkeypatch.setenv(find.ENV_BINARY, "/nowhere/tritonserver")
    with pytest.raises(TritonUnavailable, match="must be an executable"):
        find.find()


def test_find_says_how_to_fetch_when_it_may_not() -> None:
    """The doctor looks without downloading."""
    with pytest.raises(TritonUnavailable, match="no tritonserver on PATH") as raised:
        find.find(fetch=False)
    assert "conch doctor --fix" in raised.value.hint


def test_find_names_the_pythons_that_the_wheel_has_stubs_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An interpreter without a stub is refused before anything starts."""
    monkeypatch.setattr(wheel, "unpacked", lambda pinned, folder: folder)
    root = find.wheel_folder() / "pytriton" / "tritonserver" / "python_backend_stubs"
    for minor in ("3.8", "3.9"):
        executable(root / minor / "triton_python_backend_stub")
    with pytest.raises(TritonUnavailable, match=r"there are stubs for 3\.8, 3\.9"):
        find.find()
