"""What the loop makes of an ending: a fault of the settings, or only Triton that was not there."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from control import care, life
from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.action import Outcome
from control.core.memory.state import ControlState
from control.core.reasons import Clamp, Reason
from control.core.types import Decision, Settings
from control.journal.writer import Journal
from control.loop import ControlLoop
from serving import model_config, pending
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.pending import Pending
from serving.repository import Repository
from tests.unit.guarded import guarded
from tests.unit.story import a_policy, settings

CONFIG = """
name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
NOW_S = 5000.0


@dataclass
class Triton:
    """A server that fails the loads that it is told to; it serves what it loaded last."""

    repository: Repository
    fails: list[ConchError] = field(default_factory=list)
    served: ModelConfig = field(default_factory=lambda: model_config.parse(CONFIG))

    def load(self, name: str, **_: Any) -> None:
        """Load what is on disk, or fail."""
        if self.fails:
            raise self.fails.pop(0)
        self.served = self.repository.read_config(name)

    def config(self, _: str) -> ModelConfig:
        """What is served."""
        return self.served

    def infer(self, *_: Any, **__: Any) -> None:
        """Answer."""

    def index(self) -> dict[str, str]:
        """All is ready."""
        return {"m": "READY"}

    def live(self) -> bool:
        """It is."""
        return True


OUTAGE = TritonUnavailable("gone", hint="wait")
REFUSED = ApplyRejected("no memory", hint="less")


def _repository(root: Path) -> Repository:
    """A repository with the one model."""
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG)
    return Repository(root)


def _to_two(now: Settings) -> Decision:
    """A scale up to two instances."""
    return Decision(
        tick_id="t",
        at_s=NOW_S,
        reason=Reason.SCALE_UP_LOAD,
        applied=now,
        desired=replace(now, instances=2),
    )


@pytest.mark.parametrize(
    ("fails", "clamps"),
    [
        pytest.param([OUTAGE], (), id="back at once"),
        pytest.param([OUTAGE, OUTAGE], (), id="gone for the rollback too"),
        pytest.param([REFUSED], (Clamp.BLOCKED,), id="refused"),
        pytest.param([REFUSED, REFUSED], (Clamp.BLOCKED,), id="and the rollback"),
    ],
)
def test_an_outage_blocks_nothing_and_a_refusal_does(
    tmp_path: Path, fails: list[ConchError], clamps: tuple[Clamp, ...]
) -> None:
    """A scale up during it: tried again after the cooldown, also by the next controller."""
    repository = _repository(tmp_path)
    triton = Triton(repository, fails=list(fails))
    policy = a_policy(cooldown_s=5.0)
    now = settings_of(triton.served)
    decision = _to_two(now)
    with Journal(tmp_path / "journal") as journal:
        loop = ControlLoop(
            policies={"m": policy},
            observer=cast(Any, None),
            actuator=Actuator(repository, cast(TritonClient, triton)),
            journal=journal,
            clock=lambda: NOW_S,
        )
        with contextlib.suppress(ConchError):  # where not even the rollback loads
            assert life.act(loop, "m", decision).outcome is Outcome.ROLLED_BACK
        loop.settle()
        assert not triton.fails
        restarted = ControlState(changes=journal.tried("m", since_s=0.0))
        for state in (loop._states["m"], restarted):
            later = guarded(replace(now, instances=3), now, state, policy, at_s=NOW_S + 5.0)
            assert later.clamps == clamps
            at_once = guarded(replace(now, instances=3), now, state, policy, at_s=NOW_S + 4.0)
            assert at_once.clamps == (clamps or (Clamp.COOLDOWN,))
    assert settings(1).instances == repository.read_config("m").instance_group[0].count


def test_the_record_of_a_change_says_what_the_next_controller_cannot_know(tmp_path: Path) -> None:
    """What the model answered before, and that it was loaded, which it is not yet in the load."""
    repository = _repository(tmp_path)
    records: list[Pending | None] = []

    @dataclass
    class Looks(Triton):
        """Reads the record in each load."""

        def load(self, name: str, **more: Any) -> None:
            """As ever."""
            records.append(pending.read(self.repository, name))
            Triton.load(self, name, **more)

    triton = Looks(repository)
    actuator = Actuator(repository, cast(TritonClient, triton), watched=True)
    wanted = replace(settings_of(triton.served), instances=2)
    assert actuator.apply("m", wanted, reason="SCALE_UP_LOAD").outcome is Outcome.APPLIED
    records.append(pending.read(repository, "m"))
    assert [(one.loaded, one.answered) for one in records if one] == [
        (False, "always"),
        (True, "always"),
    ]


def test_a_change_is_applied_while_the_journal_is_locked(tmp_path: Path) -> None:
    """And is in the journal, as begun and ended, when it is free."""
    repository = _repository(tmp_path)
    triton = Triton(repository, fails=[])
    decision = _to_two(settings_of(triton.served))
    with Journal(tmp_path / "journal") as journal:
        loop = ControlLoop(
            policies={"m": a_policy()},
            observer=cast(Any, None),
            actuator=Actuator(repository, cast(TritonClient, triton)),
            journal=journal,
            clock=lambda: NOW_S,
        )
        other = sqlite3.connect(tmp_path / "journal")
        other.execute("BEGIN IMMEDIATE")
        assert life.act(loop, "m", decision).outcome is Outcome.APPLIED
        assert journal.actions() == []
        other.rollback()
        other.close()
        loop.settle()
        (action,) = journal.actions()
        assert (action.ended_at_s, len(journal.tried("m", since_s=0.0))) == (NOW_S, 1)


def test_a_model_is_not_asked_for_dead_stubs_while_its_change_is_judged(tmp_path: Path) -> None:
    """The probes would be judged along."""
    repository = _repository(tmp_path)
    triton = Triton(repository)
    decision = _to_two(settings_of(triton.served))
    told: list[str] = []
    with Journal(tmp_path / "journal") as journal:
        loop = ControlLoop(
            policies={"m": a_policy()},
            observer=cast(Any, None),
            actuator=Actuator(repository, cast(TritonClient, triton)),
            journal=journal,
            clock=lambda: NOW_S,
            healer=cast(Any, SimpleNamespace(looked=lambda model, _: told.append(model))),
        )
        life.act(loop, "m", decision)
        care.look_for_dead(loop.healer, "m", loop._states["m"])
        assert told == []
        loop._states["m"] = ControlState()
        care.look_for_dead(loop.healer, "m", loop._states["m"])
        assert told == ["m"]
