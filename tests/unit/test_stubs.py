"""Which stubs are dead, from what is seen of processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serving.runtime import stubs
from serving.runtime.stubs import Stub

LINE = ["/b/python/triton_python_backend_stub", "/repo/m/1/model.onnx", "shm", "1", "1", "77"]
LINE += ["/b/python", "336", "m_0_0", "/b/onnxruntime"]


def stub(pid: int, instance: str = "m_0_0", **changes: object) -> Stub:
    """A stub that started at the second of its pid."""
    seen = Stub(pid=pid, model="m", version=1, instance=instance, started_s=float(pid))
    return replace(seen, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (LINE, ("m", 1, "m_0_0")),
        (
            [*LINE[:1], "/repo/m/12/sub/m.py", *LINE[2:8], "my group_1", "x"],
            ("m", 12, "my group_1"),
        ),
        ([*LINE[:1], "/elsewhere/m/1/model.py", *LINE[2:]], None),
        ([*LINE[:1], "/repo/m/model.py", *LINE[2:]], None),
        ([*LINE[:1], "/repo/m/v1/model.py", *LINE[2:]], None),
        (["/usr/bin/bash", *LINE[1:]], None),
        ([], None),
    ],
)
def test_parse_reads_model_version_and_instance(
    line: list[str], named: tuple[str, int, str] | None
) -> None:
    """Of 2.51's own command line; anything else is no stub of this repository."""
    assert stubs.parse(line, Path("/repo")) == named


def test_a_path_may_lead_to_the_repository_by_any_way(tmp_path: Path) -> None:
    """Relative to the process' folder, by a link, and by links below it."""
    root = tmp_path / "repository"
    (root / "m" / "1").mkdir(parents=True)
    (tmp_path / "shared.py").write_text("")
    (root / "m" / "1" / "model.py").symlink_to(tmp_path / "shared.py")
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "run").mkdir()
    for given in ("repository", "./repository", "run/../repository", "link", str(root)):
        line = [*LINE[:1], f"{given}/m/1/model.py", *LINE[2:]]
        assert stubs.parse(line, root, folder=str(tmp_path)) == ("m", 1, "m_0_0")
    line = [*LINE[:1], "/models/m/1/model.py", *LINE[2:]]
    assert stubs.parse(line, root, folder=str(tmp_path)) is None


class Process:
    """One process as it is seen."""

    def __init__(self, line: list[str], *, status: str = "sleeping", closed: bool = False) -> None:
        self.line, self.seen, self.closed = line, status, closed

    def status(self) -> str:
        """As the kernel says."""
        return self.seen

    def cmdline(self) -> list[str]:
        """As it was started."""
        return self.line

    def cwd(self) -> str:
        """Another user's is not to be seen."""
        if self.closed:
            raise psutil.AccessDenied
        return "/"


@pytest.mark.parametrize(
    ("process", "strange"),
    [
        (Process(LINE), False),
        (Process([*LINE[:1], "repo/m/1/model.py", *LINE[2:]]), False),
        (Process([*LINE[:1], "repo/m/1/model.py", *LINE[2:]], closed=True), True),
        (Process([*LINE[:1], "/models/m/1/model.py", *LINE[2:]]), True),
        (Process([], status=psutil.STATUS_ZOMBIE), False),
    ],
)
def test_a_living_stub_that_cannot_be_told_is_a_stranger(
    monkeypatch: pytest.MonkeyPatch, process: Process, strange: bool
) -> None:
    """A dead one is nobody's instance."""
    monkeypatch.setattr(stubs, "processes", lambda _: [Process(LINE), process])
    assert stubs.has_strangers(1, Path("/repo")) == strange


def test_the_newest_processes_are_those_that_serve() -> None:
    """An old copy that goes away counts neither as alive nor as dead."""
    old, new = stub(1, alive=False), stub(2)
    assert stubs.alive_count([new, old], "m", {1}, 1) == 1
    assert (
        stubs.alive_count([replace(old, alive=True), replace(new, alive=False)], "m", {1}, 1) == 0
    )
    assert stubs.suspects([], [replace(old, alive=True), replace(new, alive=False)]) == {"m"}


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_instances_of_the_same_name_are_told_apart(dead: int) -> None:
    """As Triton names them after a smaller and a larger count in place."""
    names = {1: "m_0_2", 2: "m_0_3", 3: "m_0_3"}
    before = [stub(pid, name) for pid, name in names.items()]
    now = [replace(one, alive=one.pid != dead) for one in before]
    assert stubs.alive_count(before, "m", {1}, 3) == 3
    assert stubs.alive_count(now, "m", {1}, 3) == 2
    assert stubs.suspects(before, now) == {"m"}
    gone = [one for one in before if one.pid != dead]
    assert stubs.suspects(before, gone) == {"m"}


def test_another_version_and_another_model_do_not_count() -> None:
    """Only what is served of the model."""
    seen = [stub(1), stub(2, version=2), stub(3, model="n")]
    assert stubs.alive_count(seen, "m", {1}, 1) == 1
    assert stubs.alive_count(seen, "m", {1, 2}, 1) == 2
    assert stubs.alive_count(seen, "m", set(), 1) == 0


def test_fewer_than_before_are_suspect_even_without_a_zombie() -> None:
    """Who reaped it is not known here."""
    assert stubs.suspects([stub(1), stub(2, "m_0_1")], [stub(1)]) == {"m"}
    assert stubs.suspects([stub(1)], [stub(1), stub(2, "m_0_1")]) == set()


def test_a_dead_one_that_nobody_knew_is_suspect() -> None:
    """It died before anyone looked: its model has no name."""
    assert stubs.suspects([], [stub(1), stub(2, "", model="", alive=False)]) == {""}


def test_backends_are_python_and_those_written_in_it(tmp_path: Path) -> None:
    """By the folder that the server takes them from."""
    for name, file in (("onnxruntime", "model.py"), ("tensorrt", "libtriton_tensorrt.so")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    assert stubs.backends(tmp_path) == {"python", "onnxruntime"}
    assert stubs.backends(tmp_path / "nowhere") == {"python"}
