"""Finding a Triton, unpacking wheels, the backend folder: the file system only."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from conch.errors import TritonUnavailable
from serving.runtime import backend_dir, find, prometheus, stub_python, wheel
from serving.runtime.find import TritonBinary
from serving.runtime.wheel import PinnedWheel

PINNED = PinnedWheel(package="some-tool", version="1.0", sha256="ab" * 32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine is found, nothing is written outside the test."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONCH_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(find.ENV_BINARY, raising=False)
    return cache


def put_archive(folder: Path) -> None:
    """A finished download beside the folder it is for."""
    downloads = folder.parent / f"{folder.name}.download"
    downloads.mkdir(parents=True)
    with zipfile.ZipFile(downloads / "some_tool-1.0-py3-none-any.whl", "w") as archive:
        program = zipfile.ZipInfo("tool/bin/run")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!/bin/sh\n")
        archive.writestr("tool/data.txt", "data")


def executable(path: Path) -> Path:
    """A file that may be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_unpacked_uses_a_finished_download_and_keeps_the_executable_bit(tmp_path: Path) -> None:
    """An unpacking that was interrupted does not fetch again; the download goes afterwards."""
    folder = tmp_path / "tool"
    put_archive(folder)
    assert wheel.unpacked(PINNED, folder) == folder
    assert os.access(folder / "tool" / "bin" / "run", os.X_OK)
    assert not os.access(folder / "tool" / "data.txt", os.X_OK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tool", "tool.lock"]


def test_unpacked_leaves_nothing_when_the_archive_is_broken(tmp_path: Path) -> None:
    """No half-made folder, and the message names what to remove."""
    folder = tmp_path / "tool"
    put_archive(folder)
    (archive,) = (tmp_path / "tool.download").iterdir()
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(TritonUnavailable, match="cannot be unpacked") as raised:
        wheel.unpacked(PINNED, folder)
    assert "tool.download" in raised.value.hint
    assert not folder.exists()


def test_download_is_pinned_by_hash_and_without_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip gets the name, the version and the hash, and may bring nothing else."""
    seen: list[str] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        seen.extend([*command, requirements])
        return subprocess.CompletedProcess(command, 1, "", "Looking\nERROR: no such file\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(TritonUnavailable, match=r"could not fetch it \(no such file\)"):
        wheel.unpacked(PINNED, tmp_path / "tool")
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(seen)
    assert seen[-1] == f"some-tool==1.0 --hash=sha256:{'ab' * 32}\n"


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


def test_find_names_the_pythons_that_the_wheel_has_stubs_for() -> None:
    """An interpreter without a stub is refused before anything starts."""
    root = find.wheel_folder() / "pytriton" / "tritonserver" / "python_backend_stubs"
    for minor in ("3.8", "3.9"):
        executable(root / minor / "triton_python_backend_stub")
    with pytest.raises(TritonUnavailable, match=r"there are stubs for 3\.8, 3\.9"):
        find.find()


def a_wheel_triton(root: Path) -> TritonBinary:
    """The layout of the unpacked wheel."""
    (root / "backends" / "python").mkdir(parents=True)
    (root / "backends" / "python" / "libtriton_python.so").write_text("library")
    stub = executable(root / "stubs" / "triton_python_backend_stub")
    return TritonBinary(
        path=root / "bin" / "tritonserver",
        version="2.51.0",
        origin="wheel",
        library_path=(),
        backends=root / "backends",
        caches=None,
        stub=stub,
    )


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


def test_stub_python_puts_numpy_1_before_our_packages(own_cache: Path) -> None:
    """The overlay sees numpy 1 first and everything of this environment after it."""
    numpy = stub_python.numpy_folder() / "numpy"
    numpy.mkdir(parents=True)
    (numpy / "__init__.py").write_text("__version__ = 'the one in the overlay'")
    folder = stub_python.bin_dir(a_wheel_triton(own_cache / "triton"))
    code = "import numpy, yaml; print(numpy.__version__, yaml.__file__)"
    done = subprocess.run(
        [str(folder / "python3"), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    version, _, where = done.stdout.strip().rpartition(" ")
    assert version == "the one in the overlay"
    assert where == yaml.__file__


def test_stub_python_names_the_pythons_that_numpy_1_has(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter without numpy 1 wheels is refused with the way out."""
    monkeypatch.setattr(stub_python, "NUMPY_SHA256", {(3, 10): "00"})
    with pytest.raises(TritonUnavailable, match=r"numpy 1, which there is for Python 3\.10"):
        stub_python.bin_dir(a_wheel_triton(own_cache / "triton"))


def test_stub_python_is_ours_for_an_installed_triton(tmp_path: Path) -> None:
    """An installed Triton's stubs are its own affair."""
    installed = find._installed(tmp_path / "bin" / "tritonserver", origin="path")
    assert stub_python.bin_dir(installed) == Path(sys.executable).parent


def test_scrape_config_names_each_target() -> None:
    """One job a server, its own path, every second."""
    config = yaml.safe_load(
        prometheus.scrape_config(
            {"a": "http://127.0.0.1:1/metrics", "b": "http://127.0.0.1:2/other"}, interval_s=1
        )
    )
    assert config["global"]["scrape_interval"] == "1s"
    assert [(j["job_name"], j["metrics_path"]) for j in config["scrape_configs"]] == [
        ("a", "/metrics"),
        ("b", "/other"),
    ]
    assert config["scrape_configs"][1]["static_configs"] == [{"targets": ["127.0.0.1:2"]}]
