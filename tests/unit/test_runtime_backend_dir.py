"""The folder of backends that Triton is started with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving.runtime import backend_dir
from tests.unit.made_wheel import a_wheel_triton, own_cache

__all__ = ["own_cache"]


def test_backend_folder_links_the_stub_and_holds_real_libraries(tmp_path: Path) -> None:
    """The stub only works as a link, a library only as a file inside the folder."""
    binary = a_wheel_triton(tmp_path / "triton")
    folder = backend_dir.prepare(binary)
    stub = folder / "python" / "triton_python_backend_stub"
    assert stub.is_symlink()
    assert stub.resolve() == binary.stub
    assert not (folder / "python" / "libtriton_python.so").is_symlink()
    ours = folder / "onnxruntime" / "model.py"
    assert ours.read_bytes() == backend_dir.OUR_BACKEND.read_bytes()
    assert backend_dir.prepare(binary) == folder


ALTERED: dict[str, Callable[[Path], object]] = {
    "ours": lambda f: (f / "onnxruntime" / "model.py").write_text("evil"),
    "library": lambda f: [
        (f / "python" / "libtriton_python.so").unlink(),
        (f / "python" / "libtriton_python.so").write_text("evil"),
    ],
    "stub": lambda f: [
        (f / "python" / "triton_python_backend_stub").unlink(),
        (f / "python" / "triton_python_backend_stub").symlink_to("/bin/sh"),
    ],
    "added": lambda f: (f / "python" / "numpy.py").write_text("evil"),
    "missing": lambda f: (f / "onnxruntime" / "model.py").unlink(),
}


@pytest.mark.parametrize("change", ALTERED)
def test_a_backend_folder_that_was_changed_is_made_anew(tmp_path: Path, change: str) -> None:
    """Its content is what is linked or copied there, and nothing else."""
    binary = a_wheel_triton(tmp_path / "triton")
    folder = backend_dir.prepare(binary)
    assert backend_dir.differs(folder, binary) == ""
    ALTERED[change](folder)
    assert backend_dir.differs(folder, binary)
    with capture_logs() as logs:
        assert backend_dir.prepare(binary) == folder
    assert backend_dir.differs(folder, binary) == ""
    assert [e["event"] for e in logs] == ["backends.made_anew"]


def test_bytecode_in_the_backend_folder_is_removed(tmp_path: Path) -> None:
    """Python would run a planted one unread."""
    binary = a_wheel_triton(tmp_path / "triton")
    planted = backend_dir.prepare(binary) / "onnxruntime" / "__pycache__" / "model.pyc"
    planted.parent.mkdir()
    planted.write_bytes(b"evil")
    backend_dir.prepare(binary)
    assert not planted.exists()


def test_backend_folder_changes_with_our_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer Conch never changes the folder of a server that runs."""
    binary = a_wheel_triton(tmp_path / "triton")
    before = backend_dir.prepare(binary)
    newer = tmp_path / "model.py"
    newer.write_text("# newer")
    monkeypatch.setattr(backend_dir, "OUR_BACKEND", newer)
    assert backend_dir.prepare(binary) != before
    assert (before / "onnxruntime" / "model.py").read_text() != "# newer"


def test_backend_folder_is_the_tritons_own_when_it_has_the_cpp_backend(tmp_path: Path) -> None:
    """NVIDIA's container keeps its faster backend."""
    binary = a_wheel_triton(tmp_path / "triton")
    library = binary.backends / "onnxruntime" / backend_dir.CPP_LIBRARY
    library.parent.mkdir()
    library.write_text("library")
    assert backend_dir.prepare(binary) == binary.backends
