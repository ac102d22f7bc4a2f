"""Files of the repository as others leave them: closed, odd, gone, half; and what stays."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conch.errors import ConchError, ConfigError, RepositoryError
from serving import atomic, check, engines, ensembles, model_config
from serving.repository import Repository

NOBODY = 65534
CONFIG = 'name: "{name}"\nbackend: "python"\nmax_batch_size: 8\n'


def _model(root: Path, name: str) -> Path:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text("pass")
    (root / name / "config.pbtxt").write_text(CONFIG.format(name=name))
    return root / name


@pytest.fixture
def repository(tmp_path) -> Repository:
    """One with the model ``m``."""
    _model(tmp_path, "m")
    return Repository(tmp_path)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user for whom permissions count, as they do not for root."""
    folder = Path(tempfile.mkdtemp(prefix="conch-test-"))
    folder.chmod(0o755)
    if os.geteuid() != 0:
        yield folder
        shutil.rmtree(folder)
        return
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_a_closed_folder_costs_only_itself(as_nobody: Path) -> None:
    """A volume's lost+found, a model of another user, a version that may not be listed."""
    for name in ("m", "closed", "unlisted", "half"):
        _model(as_nobody, name)
    (as_nobody / "lost+found").mkdir(mode=0)
    (as_nobody / "closed").chmod(0)
    (as_nobody / "unlisted").chmod(0o111)
    (as_nobody / "half" / "1").chmod(0)
    repository = Repository(as_nobody)
    try:
        assert repository.models() == ["half", "m", "unlisted"]
        assert [repository.versions(name) for name in ("m", "half", "closed")] == [[1], [], []]
        assert ensembles.of(repository) == {}
        assert engines.left_out(repository, as_nobody) == {}
        with pytest.raises(ConfigError, match="not readable"):
            repository.config_path("closed")
        faults = {
            finding.model for finding in check.check(repository) if finding.severity == "fault"
        }
        assert faults == {"closed", "half", "lost+found", "unlisted"}
    finally:
        for name in ("closed", "unlisted", "half/1", "lost+found"):
            (as_nobody / name).chmod(0o755)


def test_a_repository_that_is_closed_says_so(as_nobody: Path) -> None:
    """Not by a traceback."""
    inner = as_nobody / "models"
    _model(inner, "m")
    repository = Repository(inner)
    inner.chmod(0)
    with pytest.raises(RepositoryError, match="cannot be listed"):
        repository.models()
    as_nobody.chmod(0)
    with pytest.raises(RepositoryError, match="may enter"):
        Repository(inner)
    as_nobody.chmod(0o755)
    inner.chmod(0o755)


def test_a_folder_that_goes_while_it_is_listed(repository: Repository, monkeypatch) -> None:
    """Another process removes a model between two of our looks."""
    _model(repository.root, "gone")
    is_file = Path.is_file

    def removed(path: Path) -> bool:
        shutil.rmtree(repository.root / "gone", ignore_errors=True)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", removed)
    assert repository.models() == ["m"]
    assert repository.versions("gone") == []


@pytest.mark.parametrize(
    "name", ["0", "01", "1.5", "-1", "²", "x", "99999999999999999999", "1 ", "٣"]
)
def test_an_odd_version_folder_is_no_version(repository: Repository, name: str) -> None:
    """As Triton sees it."""
    folder = repository.root / "m" / name
    folder.mkdir()
    (folder / "model.py").write_text("pass")
    assert repository.versions("m") == [1]


@pytest.mark.parametrize(
    "text",
    [
        "ensemble_scheduling { } input { data_type: 99999999999999999999 }",
        "max_batch_size: 99999999999999999999",
        "max_batch_size: 1e400",
        "ensemble_scheduling { step { " * 5000,
        "x { " * 100_000,
        'name: "\\xff\\xfe"',
        'name: "\ud800"',
        "name: 'a' \x00",
        "[a.b/c.d] { }",
        "a" * 10_000_000,
        " " * (model_config.MOST_CHARACTERS + 1),
    ],
)
def test_a_config_that_does_not_parse_is_a_config_error(text: str) -> None:
    """Whatever the parser raises."""
    with pytest.raises(ConfigError) as caught:
        model_config.parse(text)
    assert len(str(caught.value)) < 1000


def test_the_odd_config_of_another_model_is_only_its_own_fault(repository: Repository) -> None:
    """Others are read on, and ``repo check`` names it."""
    odd = _model(repository.root, "odd") / "config.pbtxt"
    odd.write_text("ensemble_scheduling { } input { data_type: 99999999999999999999 }")
    assert ensembles.of(repository) == {}
    assert "odd" in {finding.model for finding in check.check(repository)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.pbtxt", "x"),
        ("notes.json", "{}"),
        ("7.json", "garbage"),
        ("000007.json", "[" * 100_000),
        ("000007.json", '{"number": "7"}'),
        ("000007.json", "\ufffe"),
        ("99999999.pbtxt", "x"),
        ("99999999999999999999.pbtxt", "x"),
        ("-00001.pbtxt", "x"),
        ("٠٠٠٠٠٩.json", "x"),
    ],
)
def test_a_stray_file_among_the_revisions_is_passed_over(
    repository: Repository, name: str, content: str
) -> None:
    """The next revision is written and found."""
    config = repository.read_config("m")
    repository.write_config("m", model_config.with_instances(config, 2), reason="a")
    (repository.state / "revisions" / "m" / name).write_text(content)
    for count in (3, 4):
        new = repository.write_config("m", model_config.with_instances(config, count), reason="b")
        assert repository.revisions("m").newest() == new
    assert [r.reason for r in repository.revisions("m").all()] == ["found on disk", "a", "b", "b"]


def test_a_revision_that_is_a_folder_or_no_text(repository: Repository) -> None:
    """Refused in our words."""
    repository.write_config(
        "m", model_config.with_instances(repository.read_config("m"), 2), reason="a"
    )
    folder = repository.state / "revisions" / "m"
    (folder / "000001.pbtxt").write_bytes(b"\xff\xfe")
    (folder / "000002.pbtxt").unlink()
    (folder / "000002.pbtxt").mkdir()
    for number in (1, 2):
        with pytest.raises(RepositoryError, match="cannot be read"):
            repository.revisions("m").text(number)


def test_a_config_that_is_a_pipe_or_endless_is_not_read(repository: Repository) -> None:
    """A read of it would never end."""
    path = repository.root / "m" / "config.pbtxt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError):
        repository.config_text("m")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConchError):
        repository.config_text("m")


# --- what a write keeps, and leaves ----------------------------------------------------------


def _facts(path: Path) -> tuple[int, int, int, dict[str, bytes]]:
    now = path.stat()
    names = [name for name in os.listxattr(path) if name.startswith("user.")]
    return (
        stat.S_IMODE(now.st_mode),
        now.st_uid,
        now.st_gid,
        {name: os.getxattr(path, name) for name in names},
    )


def test_a_write_keeps_mode_owner_and_attributes(repository: Repository) -> None:
    """Of the config, through a change and the way back; a Triton of another user reads it."""
    path = repository.root / "m" / "config.pbtxt"
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1000, 1000)
    with suppress(OSError):  # no attributes on this filesystem
        os.setxattr(path, "user.conch", b"kept")
    before, old_ns = _facts(path), path.stat().st_mtime_ns
    text = path.read_text()
    umask = os.umask(0o077)
    try:
        repository.write_text("m", text + "# changed\n", reason="a")
        assert _facts(path) == before
        assert path.stat().st_mtime_ns > old_ns
        repository.restore("m", text, reason="back", tick_id="")
    finally:
        os.umask(umask)
    assert _facts(path) == before
    assert path.read_text() == text


def test_a_write_keeps_the_group_where_the_owner_may_not_be_given(as_nobody: Path) -> None:
    """Only root gives files away; the mode stays all the same."""
    target = as_nobody / "file"
    target.write_text("old")
    target.chmod(0o604)
    atomic.write(target, b"new", aside=as_nobody / "tmp", point="test")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert target.read_text() == "new"


def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    """As any other program's."""
    umask = os.umask(0o027)
    try:
        atomic.write(tmp_path / "new", b"x", aside=tmp_path / "tmp", point="test")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_disk_that_refuses_is_said_in_our_words(tmp_path: Path, monkeypatch) -> None:
    """Also where the folder for temporary files is a file, or nothing can be removed."""
    (tmp_path / "tmp").write_text("a file")
    with pytest.raises(RepositoryError, match="Nothing was changed"):
        atomic.write(tmp_path / "x", b"x", aside=tmp_path / "tmp", point="test")

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(RepositoryError, match="Read-only file system"):
        atomic.write(tmp_path / "x", b"x", aside=tmp_path / "aside", point="test")


DIES = """
import sys
from pathlib import Path
from serving import model_config
from serving.repository import Repository
repository = Repository(Path(sys.argv[1]))
config = model_config.with_instances(repository.read_config("m"), int(sys.argv[2]))
repository.write_config("m", config, reason="dies")
"""


@pytest.mark.parametrize("point", ["repository.config", "revision.text", "revision.record"])
def test_what_a_killed_writer_left_goes_and_that_of_a_live_one_stays(
    repository: Repository, point: str
) -> None:
    """Told by the kernel's lock, whatever process numbers say."""
    environment = {**os.environ, "CONCH_FAILPOINT": f"{point}.temp_written=kill"}
    command = [sys.executable, "-c", DIES, str(repository.root), "2"]
    assert subprocess.run(command, env=environment).returncode == -9
    aside = repository.state / "tmp"
    (aside / f"config.pbtxt.{'0' * 32}").write_text("of an earlier version")
    (aside / f"m.{'1' * 32}" / "1").mkdir(parents=True)
    (aside / "a person's").write_text("kept")
    assert len(list(aside.iterdir())) == 4
    live = aside / f"config.pbtxt.{'2' * 32}"
    descriptor = atomic._made(live, private=True)
    busy = Repository(repository.root)
    _model(repository.root, "n")
    (aside / f"n.{'3' * 32}").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(repository.root), "n"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        busy.remove_left()
        assert {path.name for path in aside.iterdir()} == {
            "a person's",
            live.name,
            f"n.{'3' * 32}",
        }
        holder.communicate()
    os.close(descriptor)
    busy.remove_left()
    assert {path.name for path in aside.iterdir()} == {"a person's"}


HOLDS = """
import sys
from pathlib import Path
from serving.repository import Repository
with Repository(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_records_are_still_json(repository: Repository) -> None:
    """The format of a revision did not change."""
    repository.write_text("m", CONFIG.format(name="m") + "# x\n", reason="a")
    record = json.loads((repository.state / "revisions" / "m" / "000001.json").read_text())
    assert record["number"] == 1
