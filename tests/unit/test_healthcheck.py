"""The container's health check tells a ticking loop from one that stopped."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from control.core.reasons import Reason
from control.core.types import Decision, Observation
from control.journal.writer import Journal
from control.session import journal_path
from serving.repository import Repository

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("healthcheck", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tick(repository: Path, model: str, *, at_s: float) -> None:
    """Record a decision."""
    seen = Observation(at_s=at_s, tick_id="t", counters=None, statistics=None, applied=None)
    held = Decision(tick_id="t", at_s=at_s, reason=Reason.HOLD_NO_DATA, applied=None, desired=None)
    with Journal(journal_path(Repository(repository))) as journal:
        journal.record(model, seen, held, mode="active")


def test_healthcheck_passes_while_one_model_ticks(healthcheck: ModuleType, tmp_path: Path):
    """A loop that holds is alive; a model that left the policy does not count against it."""
    tick(tmp_path, "gone", at_s=time.time() - 3600)
    tick(tmp_path, "here", at_s=time.time() - 1)
    assert healthcheck.main(str(tmp_path)) == 0


def test_healthcheck_fails_when_the_ticks_are_old(healthcheck: ModuleType, tmp_path: Path):
    """A loop that hangs leaves an old decision."""
    tick(tmp_path, "here", at_s=time.time() - 2 * healthcheck.OLDEST_S)
    assert healthcheck.main(str(tmp_path)) == 1


def test_healthcheck_fails_without_a_journal(healthcheck: ModuleType, tmp_path: Path):
    """Nothing was ever decided."""
    assert healthcheck.main(str(tmp_path)) == 1
    assert healthcheck.main(str(tmp_path / "missing")) == 1
