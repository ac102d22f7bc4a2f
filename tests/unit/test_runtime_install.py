"""Finding a Triton, unpacking wheels, the backend folder: the file system only."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from conch.errors import TritonUnavailable
from serving.runtime import backend_dir, find, prometheus, recorded, stub_python, wheel
from serving.runtime.find import TritonBinary
from serving.runtime.wheel import PinnedWheel

FILES = {"tool/bin/run": "#!/bin/sh\n", "tool/data.txt": "data", "tool/code.py": "x = 1\n"}
INFO = "some_tool-1.0.dist-info/RECORD"


def record(files: dict[str, str]) -> str:
    """The list of files that a wheel has of itself."""
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        lines.append(f"{name},sha256={digest.rstrip('=')},{len(text)}\n")
    return "".join([*lines, f"{INFO},,\n"])


def archive_bytes(files: dict[str, str]) -> bytes:
    """A wheel of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in {**files, INFO: record(FILES)}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if "bin" in name else 0o100644) << 16
            archive.writestr(info, text)
    return data.getvalue()


PINNED = PinnedWheel(
    package="some-tool",
    version="1.0",
    sha256=hashlib.sha256(archive_bytes(FILES)).hexdigest(),
    record_sha256=hashlib.sha256(record(FILES).encode()).hexdigest(),
    imported=True,
)
NUMPY_FILES = {"numpy/__init__.py": "__version__ = 'the one in the overlay'"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine is found, nothing is written outside the test."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONCH_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(find.ENV_BINARY, raising=False)
    return cache


def put_archive(folder: Path, data: bytes = archive_bytes(FILES)) -> None:
    """A finished download beside the folder it is for."""
    downloads = folder.parent / f"{folder.name}.download"
    downloads.mkdir(parents=True)
    (downloads / "some_tool-1.0-py3-none-any.whl").write_bytes(data)


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is away."""

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", pip)


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
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tool", "tool.lock", "tool.tree.json"]


def test_a_leftover_download_that_is_not_the_pinned_one_is_never_unpacked(
    tmp_path: Path, no_pip: None
) -> None:
    """Planted, or cut short: it is fetched anew, and without a network nothing is there."""
    folder = tmp_path / "tool"
    for data in (archive_bytes({**FILES, "tool/bin/run": "evil"}), archive_bytes(FILES)[:-30]):
        put_archive(folder, data)
        with pytest.raises(TritonUnavailable, match="no network"):
            wheel.unpacked(PINNED, folder)
        assert not folder.exists()


def test_unpacked_leaves_nothing_when_the_archive_is_broken(tmp_path: Path) -> None:
    """No half-made folder, and the message names what to remove."""
    folder = tmp_path / "tool"
    data = archive_bytes(FILES)[:-30]
    put_archive(folder, data)
    pinned = replace(PINNED, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(TritonUnavailable, match="cannot be unpacked") as raised:
        wheel.unpacked(pinned, folder)
    assert "tool.download" in raised.value.hint
    assert not folder.exists()


def forge(path: Path, text: str) -> None:
    """Another content of the same length and time."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "size": lambda f: (f / "tool" / "data.txt").write_text("data and more"),
    "time": lambda f: os.utime(f / "tool" / "data.txt"),
    "added": lambda f: (f / "sitecustomize.py").write_text("evil"),
    "link": lambda f: [(f / "tool" / "data.txt").unlink(), (f / "tool" / "data.txt").symlink_to(f)],
    "missing": lambda f: (f / "tool" / "data.txt").unlink(),
    "record": lambda f: (f / INFO).write_text(record({**FILES, "tool/data.txt": "evil"})),
    "bytecode": lambda f: next((f / "tool" / "__pycache__").iterdir()).write_bytes(b"evil"),
    "tree": lambda f: recorded.tree_file(f).write_text("{}"),
    "no json": lambda f: recorded.tree_file(f).write_text("x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_unpacked_wheel_that_was_changed_is_not_run(
    tmp_path: Path, change: str, no_pip: None
) -> None:
    """Size, time, a file more or less, bytecode; doctor unpacks it anew."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    CHANGES[change](folder)
    with pytest.raises(TritonUnavailable, match="so it is not run") as raised:
        wheel.unpacked(PINNED, folder)
    assert "doctor --fix" in raised.value.hint
    put_archive(folder)
    assert wheel.mend(PINNED, folder) == folder
    assert (folder / "tool" / "data.txt").read_text() == "data"
    assert wheel.fault(PINNED, folder) == ""


def test_forged_size_and_time_are_found_by_content(tmp_path: Path) -> None:
    """That is doctor's: a start does not read the files."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    forge(folder / "tool" / "data.txt", "evil")
    assert wheel.unpacked(PINNED, folder) == folder
    assert "data.txt was changed" in wheel.fault(PINNED, folder)


def test_bytecode_that_nobody_can_vouch_for_is_removed(tmp_path: Path) -> None:
    """Python would run it unread; without it, it does."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    planted = folder / "tool" / "__pycache__" / "other.cpython-399.pyc"
    planted.write_bytes(b"evil")
    assert wheel.unpacked(PINNED, folder) == folder
    assert not planted.exists()


def test_what_an_older_conch_unpacked_is_checked_once_by_content(tmp_path: Path) -> None:
    """It kept no times; what differs is not run."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    recorded.tree_file(folder).unlink()
    assert wheel.unpacked(PINNED, folder) == folder
    recorded.tree_file(folder).unlink()
    forge(folder / "tool" / "data.txt", "evil")
    with pytest.raises(TritonUnavailable, match=r"data\.txt was changed"):
        wheel.unpacked(PINNED, folder)
    put_archive(folder)
    wheel.mend(PINNED, folder)
    assert (folder / "tool" / "data.txt").read_text() == "data"


def test_a_start_reads_no_file_but_the_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it costs one lstat a file, whatever their size."""
    folder = tmp_path / "tool"
    put_archive(folder)
    wheel.unpacked(PINNED, folder)
    read: list[str] = []
    real = Path.open

    def spied(path: Path, *rest: Any, **named: Any) -> Any:
        read.append(path.name)
        return real(path, *rest, **named)

    monkeypatch.setattr(Path, "open", spied)
    monkeypatch.setattr(recorded, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    wheel.unpacked(PINNED, folder)
    assert set(read) <= {"RECORD", "tool.tree.json"}


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
    assert seen[-1] == f"some-tool==1.0 --hash=sha256:{PINNED.sha256}\n"


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


@pytest.fixture
def numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numpy of one file, its download there."""
    listed = record(NUMPY_FILES)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in {**NUMPY_FILES, INFO: listed}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    sums = tuple(hashlib.sha256(b).hexdigest() for b in (data.getvalue(), listed.encode()))
    monkeypatch.setattr(stub_python, "NUMPY_SHA256", {sys.version_info[:2]: sums})
    put_archive(stub_python.numpy_folder(), data.getvalue())


PLANTED: dict[str, Callable[[Path], object]] = {
    "sitecustomize": lambda f: (
        next(f.glob("lib/python3*/site-packages")) / "sitecustomize.py"
    ).write_text("x"),
    "another pth": lambda f: (next(f.glob("lib/python3*/site-packages")) / "a.pth").write_text(
        "import os"
    ),
    "our pth": lambda f: next(f.glob("lib/python3*/site-packages/conch.pth")).write_text("/evil"),
    "tar": lambda f: (f / "bin" / "tar").write_text("evil"),
    "python": lambda f: [
        (f / "bin" / "python3").unlink(),
        (f / "bin" / "python3").symlink_to("/bin/sh"),
    ],
    "home": lambda f: (f / "pyvenv.cfg").write_text("home = /evil"),
}


@pytest.mark.parametrize("change", PLANTED)
def test_stub_python_that_was_changed_is_made_anew(
    own_cache: Path, numpy_1: None, change: str
) -> None:
    """Its folder is first on the PATH of Triton, and what lies in it is run by the stubs."""
    binary = a_wheel_triton(own_cache / "triton")
    folder = stub_python.bin_dir(binary).parent
    before = stub_python._content(folder)
    PLANTED[change](folder)
    assert stub_python._content(folder) != before
    with capture_logs() as logs:
        assert stub_python.bin_dir(binary).parent == folder
    assert stub_python._content(folder) == before
    assert [e["event"] for e in logs] == ["python.made_anew"]
    with capture_logs() as logs:
        stub_python.bin_dir(binary)
    assert not logs


def test_stub_python_puts_numpy_1_before_our_packages(own_cache: Path, numpy_1: None) -> None:
    """The overlay sees numpy 1 first and everything of this environment after it."""
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
    monkeypatch.setattr(stub_python, "NUMPY_SHA256", {(3, 10): ("00", "00")})
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
