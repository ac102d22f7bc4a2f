"""What would be late anyway is refused by a real Triton, and the rest is in time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

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

SLO_S = 0.3
CARRIED_RPS, RATE_RPS = 200.0, 300.0
LASTS_S, SETTLED_S = 24.0, 12.0

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("late", ["refuse", "wait"])
def test_an_overload_keeps_what_is_carried_in_time_where_late_requests_are_refused(
    late: str, tmp_path: Path, start_server, connect, monkeypatch
) -> None:
    """1.5 times what one instance carries: two thirds in time, or none in one endless queue."""
    root = tmp_path / "repository"
    root.mkdir()
    scripted.publish(root, "m", max_batch_size=4, batch_s=4 / CARRIED_RPS)
    repository, server = Repository(root), start_server(root)
    client = connect(server)
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    endpoints.save(server.endpoint)
    model = ModelPolicy(
        slo=SLO_S, max_instances=1, max_batch_size=4, late=late, fast_window=0.5, stable_window=2.0
    )
    policy, ticks = PolicyFile(tick=0.25, models={"m": model}), list[Tick]()
    trace = traces.poisson(RATE_RPS, LASTS_S, seed=3)
    with (
        replaying(server.endpoint, "m", trace) as results,
        session.session(server.endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
    ):
        life.run(
            loop,
            tick_s=0.25,
            stop=threading.Event(),
            duration_s=LASTS_S - 1.0,
            on_tick=ticks.append,
        )
    result = results[0]
    settled = result.intended_s >= SETTLED_S
    in_time = float(np.mean(result.latency_s[settled] <= SLO_S))
    reasons = [t.decision.reason for t in ticks if t.begun]
    limit_s = settings_of(client.config("m")).refuse_after_s
    if late == "wait":
        assert (reasons, limit_s) == ([], None)
        assert in_time < 0.2
    else:
        assert reasons == [Reason.REBATCH]
        assert limit_s == pytest.approx(0.9 * SLO_S - 4 / CARRIED_RPS, abs=0.02)
        assert in_time > 0.4
