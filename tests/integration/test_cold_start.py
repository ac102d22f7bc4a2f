"""From a cold start to the final count under load, where nobody declared how many there may be."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from control import life, session
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from perf import traces
from perf.bench.emulated import EmulatedModel, publish
from serving.repository import Repository
from tests.integration.load import replaying

pytestmark = pytest.mark.alone

MODEL = EmulatedModel(alpha_s=0.008, beta_s=0.032, load_s=3.0)
"""One instance carries 83/s, and its CPU is idle meanwhile."""
RATE_RPS = 200.0
AT_MOST_S = 70.0


def test_a_model_that_waits_has_twice_what_its_load_needs_soon(
    tmp_path: Path, start_server
) -> None:
    """Three carry the load, and five or six twice of it; the load comes to one that idles."""
    root = tmp_path / "repository"
    root.mkdir()
    publish(MODEL, root)
    server = start_server(root)
    policy = PolicyFile(defaults=ModelPolicy(slo=0.4))
    stop, seen = threading.Event(), list[tuple[float, int]]()

    def saw(tick: Tick) -> None:
        applied, counters = tick.observation.applied, tick.observation.counters
        if applied is None or counters is None or counters.success + counters.pending < 10:
            return
        seen.append((tick.observation.at_s, applied.instances))
        if applied.instances >= 5:
            stop.set()

    with (
        session.session(server.endpoint, Repository(root), policy, mode=Mode.ACTIVE) as loop,
        replaying(
            server.endpoint,
            MODEL.name,
            traces.poisson(RATE_RPS, AT_MOST_S, seed=1),
            row=np.zeros((1, 1), np.float32),
        ),
    ):
        life.run(loop, tick_s=0.5, stop=stop, duration_s=AT_MOST_S, on_tick=saw)
    assert seen[-1][1] >= 5, seen
    assert seen[-1][0] - seen[0][0] < 35.0, seen
