"""A controller measures full batches on a real Triton, and plans by what it measured."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConfigError
from control import life, session
from control.act.knobs import settings_of
from control.core.reasons import Reason
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from perf import traces
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from tests.integration import scripted
from tests.integration.load import replaying

RATE_RPS = 15.0
AT_MOST_S = 60.0


def _single(root: Path, name: str) -> None:
    """Batches of up to 8 in 20 ms; Triton joins no requests."""
    scripted.publish(root, name, max_batch_size=8, batch_s=0.02)
    path = root / name / "config.pbtxt"
    path.write_text(path.read_text().replace("dynamic_batching { }\n", ""))


def test_inputs_that_do_not_fit_the_model_are_an_error_before_anything_is_done(
    tmp_path: Path, start_server
) -> None:
    """The controller does not begin, and says which input of which model."""
    root = tmp_path / "repository"
    root.mkdir()
    _single(root, "asked")
    server = start_server(root)
    np.savez(tmp_path / "rows.npz", x=np.zeros((3, 5), np.float32))
    policy = PolicyFile(defaults=ModelPolicy(calibrate=str(tmp_path / "rows.npz")))
    with (
        pytest.raises(ConfigError, match=r"asked, input 'x': shape \[3, 5\], must be \[rows, 4\]"),
        session.session(server.endpoint, Repository(root), policy, mode=Mode.ACTIVE),
    ):
        pass


def test_full_batches_are_measured_and_are_no_load(
    tmp_path: Path, start_server, connect, monkeypatch
) -> None:
    """Only singles come; the base configuration knows of 8. One without leave is never asked.

    What is sent is of the owner's own rows, where the policy names a file of them.
    """
    root = tmp_path / "repository"
    root.mkdir()
    _single(root, "asked")
    _single(root, "left")
    repository, server = Repository(root), start_server(root)
    client = connect(server)
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    endpoints.save(server.endpoint)
    np.savez(tmp_path / "rows.npz", x=np.zeros((3, 4), np.float32))
    common = {"slo": 0.4, "max_instances": 1, "max_batch_size": 8, "stable_window": 2.0}
    policy = PolicyFile(
        tick=0.25,
        models={
            "asked": ModelPolicy(**common, calibrate=str(tmp_path / "rows.npz")),
            "left": ModelPolicy(**common),
        },
    )
    stop, ticks = threading.Event(), list[Tick]()

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if tick.model == "asked" and tick.ended is not None:
            stop.set()

    trace = traces.poisson(RATE_RPS, AT_MOST_S, seed=1)
    with (
        replaying(server.endpoint, "asked", trace),
        replaying(server.endpoint, "left", trace),
        session.session(server.endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
    ):
        life.run(loop, tick_s=0.25, stop=stop, duration_s=AT_MOST_S, on_tick=saw)
    changes = {t.model: t.decision for t in ticks if t.begun}
    assert changes["asked"].reason is Reason.REBATCH
    in_force = settings_of(client.config("asked"))
    assert (in_force.dynamic_batching, in_force.max_batch_size) == (True, 8)
    assert "left" not in changes
    seen = {t.model: t.observation for t in ticks}
    assert seen["asked"].own.rows >= 5 * 8
    assert seen["left"].own.rows == 0
    rates = [t.decision.need.rate_rps for t in ticks if t.model == "asked" and t.decision.need]
    assert max(rates) < 2.5 * RATE_RPS  # of two seconds; with our own it would be far above
    statistics = seen["left"].statistics
    assert statistics is not None
    assert max(statistics.batches) == 1
