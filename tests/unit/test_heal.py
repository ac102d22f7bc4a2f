"""Which way a model with dead stubs is brought back, against a scripted Triton."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from conch.errors import ApplyRejected, ConfigError
from serving import heal
from serving.client import InferenceFailed
from serving.heal import Way
from serving.model_config import ModelConfig, parse
from serving.repository import Repository
from serving.statistics import ModelStatistics

DEAD = "infer at h:1: Stub process 'm_0_1' is not healthy.."
CONFIG = (
    'name: "m" backend: "python" max_batch_size: 8 instance_group { count: 2 }\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [1] }\n'
    'parameters { key: "a" value { string_value: "b" } }\n'
)


class Triton:
    """A client whose answers and refusals are scripted; keeps what was asked of it."""

    def __init__(self, *, answers: list[str] | None = None, refusals: list[str] | None = None):
        self.answers = answers or []
        self.refusals = refusals or []
        self.calls: list[str] = []
        self.answered = 0
        self.states = {"m": "READY"}
        self.served = parse(CONFIG)
        self.served.instance_group[0].name = "m_0"  # Triton fills in more

    def config(self, name: str) -> ModelConfig:
        """As Triton has it."""
        return self.served

    def index(self) -> dict[str, str]:
        """Loaded, whatever its stubs."""
        return self.states

    def infer(self, name: str, *_: object, **__: object) -> dict[str, object]:
        """The next scripted answer."""
        self.calls.append("infer")
        message = self.answers.pop(0) if self.answers else ""
        if message:
            raise InferenceFailed(message)
        self.answered += 1
        return {}

    def statistics(self, name: str) -> ModelStatistics:
        """What was answered."""
        return ModelStatistics(success_count=self.answered)

    def load(self, name: str, **_: object) -> None:
        """Refused as scripted."""
        self.calls.append("load")
        if self.refusals:
            raise ApplyRejected(self.refusals.pop(0))

    def unload(self, name: str, **_: object) -> None:
        """Never ends."""
        self.calls.append("unload")
        raise ApplyRejected("UNLOADING for ever, as after a stub died")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One model, its version of long ago."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.py").write_text("")
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    os.utime(tmp_path / "m" / "1", (1, 1))
    return Repository(tmp_path)


def healed(triton: Triton, repository: Repository, **settings: bool) -> Way:
    """As the watch calls it."""
    return heal.heal(triton, repository, "m", **settings)  # type: ignore[arg-type]


def test_a_second_copy_is_loaded_by_a_newer_time_alone(repository: Repository) -> None:
    """No byte changes, and nothing is unloaded."""
    triton = Triton()
    assert healed(triton, repository) is Way.SECOND_COPY
    assert triton.calls == ["load"]
    assert (repository.root / "m" / "1").stat().st_mtime > 1
    assert repository.config_text("m") == CONFIG


def test_a_time_of_a_moment_ago_gets_that_of_now(repository: Repository) -> None:
    """Triton does not see an edit of the config that is older than the folder."""
    os.utime(repository.root / "m" / "1")
    healed(Triton(), repository)
    assert (repository.root / "m" / "1").stat().st_mtime <= time.time()


@pytest.mark.parametrize("inside", [False, True])
def test_a_time_in_the_future_gets_newer_too(repository: Repository, inside: bool) -> None:
    """Triton takes the newest of the folder and of what is inside; an older one changes nothing."""
    version = repository.root / "m" / "1"
    future_s = time.time() + 9e6
    os.utime(version / "model.py" if inside else version, (future_s, future_s))
    assert healed(Triton(), repository) is Way.SECOND_COPY
    assert version.stat().st_mtime > future_s
    assert version.stat().st_mtime < future_s + 2.0


@pytest.mark.parametrize(
    ("answering", "refusal", "edited", "unloaded"),
    [
        (True, "CUDA out of memory", False, True),
        (True, "CUDA out of memory", True, False),
        (True, "model.py: SyntaxError", False, False),
        (False, "model.py: SyntaxError", False, True),
        (False, "CUDA out of memory", True, True),
    ],
)
def test_what_answers_is_unloaded_only_for_want_of_room(
    repository: Repository, answering: bool, refusal: str, edited: bool, unloaded: bool
) -> None:
    """Where the file on disk is what is served; an edit may ask for more than there is."""
    if edited:
        path = repository.config_path("m")
        path.write_text(CONFIG.replace("max_batch_size: 8", "max_batch_size: 99"))
    triton = Triton(refusals=[refusal])
    if unloaded:
        assert healed(triton, repository, answering=answering) is Way.RELOADED
        assert triton.calls == ["load", "unload", "load"]
    else:
        with pytest.raises(ApplyRejected):
            healed(triton, repository, answering=answering)
        assert triton.calls == ["load"]


def test_without_memory_no_second_copy_is_tried(repository: Repository) -> None:
    """It would take what others need."""
    triton = Triton()
    assert healed(triton, repository, room=False) is Way.RELOADED
    assert triton.calls == ["unload", "load"]


def edit(repository: Repository) -> None:
    """As a person does, and nobody loads it."""
    path = repository.config_path("m")
    path.write_text(CONFIG.replace("max_batch_size: 8", "max_batch_size: 99"))


@pytest.mark.parametrize("touchable", [True, False])
def test_an_edit_on_disk_holds_every_unload_of_what_answers(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, touchable: bool
) -> None:
    """Without memory, or where the folder cannot be touched; both ways out are named."""
    edit(repository)
    monkeypatch.setattr(heal, "_touch", lambda *_: touchable)
    triton = Triton()
    with pytest.raises(ApplyRejected, match="still answer") as raised:
        healed(triton, repository, room=not touchable)
    assert triton.calls == []
    assert "repo load m" in raised.value.hint
    assert "rollback m" in raised.value.hint


@pytest.mark.parametrize("room", [True, False])
def test_an_edit_that_is_loaded_along_is_said(repository: Repository, room: bool) -> None:
    """Where nothing answers, loading what is there is the only way."""
    edit(repository)
    with capture_logs() as logs:
        healed(Triton(), repository, answering=False, room=room)
    assert "config.edit_loaded" in [entry["event"] for entry in logs]
    triton = Triton()
    triton.served.max_batch_size = 99
    with capture_logs() as logs:
        healed(triton, repository, answering=False, room=room)
    assert "config.edit_loaded" not in [entry["event"] for entry in logs]


def test_what_does_not_load_after_its_unload_can_be_loaded_later(repository: Repository) -> None:
    """With the ensembles that went down with it; what somebody loaded is left alone."""
    step = 'step { model_name: "m" model_version: -1 }'
    (repository.root / "e").mkdir()
    (repository.root / "e" / "config.pbtxt").write_text(f"ensemble_scheduling {{ {step} }}")
    triton = Triton(refusals=["no space left"])
    triton.states["e"] = "READY"
    with pytest.raises(heal.LeftUnloaded) as raised:
        healed(triton, repository, room=False)
    assert raised.value.around == ("e",)
    triton.states = {"m": "UNAVAILABLE", "e": "UNAVAILABLE"}
    triton.calls = []
    heal.load_again(triton, repository, "m", raised.value)  # type: ignore[arg-type]
    assert triton.calls == ["load", "load"]
    triton.states = {"m": "READY", "e": "READY"}
    heal.load_again(triton, repository, "m", raised.value)  # type: ignore[arg-type]
    assert triton.calls == ["load", "load"]


def test_a_config_with_a_name_that_a_shell_reads_is_not_loaded(repository: Repository) -> None:
    """It may have been edited since the start."""
    repository.config_path("m").write_text('backend: "python" default_model_filename: "$(id)"')
    triton = Triton()
    with pytest.raises(ConfigError):
        healed(triton, repository)
    assert triton.calls == []


@pytest.mark.parametrize(
    ("answers", "way"),
    [
        ([], None),
        (["broken on purpose"] * 9, None),
        ([DEAD], None),  # met once, and not again under the lock
        ([DEAD, "", DEAD], Way.SECOND_COPY),
        ([DEAD] * 99999, Way.SECOND_COPY),
    ],
)
def test_answers_alone_tell_dead_stubs_from_other_failures(
    repository: Repository, answers: list[str], way: Way | None
) -> None:
    """The failure's own text, twice."""
    triton = Triton(answers=list(answers))
    found = heal.heal_by_answers(triton, repository, "m", for_s=0.05)  # type: ignore[arg-type]
    assert found is way
    assert ("load" in triton.calls) == (way is not None)
    assert "unload" not in triton.calls


def test_a_model_that_answers_nobody_is_asked_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second probe would wait behind a longer queue."""
    monkeypatch.setattr(heal, "ONLY_DEAD_S", -1.0)
    triton = Triton(answers=[DEAD] * 9)
    heal.heal_by_answers(triton, repository, "m")  # type: ignore[arg-type]
    assert triton.calls.count("infer") == 1


class Clock:
    """Time passes only where somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.now_s += seconds


@pytest.mark.parametrize(
    ("rps", "least", "most"), [(0.0, 5, 7), (1.0, 7, 16), (40.0, 110, 130), (200.0, 550, 650)]
)
def test_a_healthy_model_is_asked_no_more_than_it_is_by_others(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, rps: float, least: int, most: int
) -> None:
    """Idle, each of its instances is met twice."""
    clock = Clock()
    monkeypatch.setattr(heal, "time", clock)
    triton = Triton()
    heal.heal_by_answers(triton, repository, "m", rps=rps)  # type: ignore[arg-type]
    assert least <= triton.calls.count("infer") <= most
    assert clock.now_s <= heal.ASK_S + heal.PAUSE_S
