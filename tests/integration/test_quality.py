"""The quality knob on a real Triton: a cheaper version serves in an overload, and gives way after.

The models are emulated accelerators: batches sleep, so that the times are the same on any machine.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from control import session
from control.core.types import Reason
from control.loop import Mode, Tick
from control.policy_file import ModelPolicy, PolicyFile
from control.watch.observe import settings_of
from perf import traces
from perf.bench.emulated import EmulatedModel, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving.model_config import ReloadKind
from serving.repository import Repository
from serving.runtime import endpoint as endpoints

MODEL = EmulatedModel(  # 167/s at most, and 500/s with the cheaper version
    alpha_s=0.004, beta_s=0.016, load_s=0.3, more_versions={2: (0.001, 0.008)}
)
POLICY = ModelPolicy(
    slo=0.3,
    max_instances=1,
    versions=[1, 2],
    rebatch=False,
    fast_window=0.5,
    stable_window=1.5,
    cooldown=0.5,
    load_time=0.3,
)
TICK_S = 0.25
OVERLOAD = traces.steps(((60.0, 3.0), (260.0, 5.0), (60.0, 40.0)), seed=5)


def test_an_overload_is_served_by_the_cheaper_version_and_nobody_fails(
    tmp_path_factory, start_server, connect, monkeypatch
) -> None:
    """1 instance at most: version 2 takes over in place, version 1 comes back after the load."""
    folder = tmp_path_factory.mktemp("quality")
    publish(MODEL, folder / "repository")
    repository = Repository(folder / "repository")
    server = start_server(repository.root)
    client = connect(server)
    monkeypatch.setenv("CONCH_CACHE", str(folder / "cache"))
    endpoints.save(server.endpoint)
    assert settings_of(client.config(MODEL.name)).version == 1

    stop, results, ticks = threading.Event(), list[ReplayResult](), list[Tick]()
    items = {"x": np.ones((1, 1), np.float32)}
    target = ReplayTarget(grpc_url=server.endpoint.grpc_url, model=MODEL.name, inputs=items)
    load = threading.Thread(
        target=lambda: results.append(replay(OVERLOAD, target, slo_s=POLICY.slo, stop=stop))
    )
    versions: list[int | None] = []

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if tick.ended is not None:
            versions.append(settings_of(client.config(MODEL.name)).version)
            if len(versions) == 2:
                stop.set()

    load.start()
    try:
        file = PolicyFile(tick=TICK_S, models={MODEL.name: POLICY})
        with session.session(server.endpoint, repository, file, mode=Mode.ACTIVE) as loop:
            known = loop.policies[MODEL.name]
            loop.policies = {MODEL.name: replace(known, settle_s=0.5, burn_short_s=3.0)}
            loop.run(tick_s=TICK_S, stop=stop, duration_s=25.0, on_tick=saw)
    finally:
        stop.set()
        load.join()
    ends = [tick.ended for tick in ticks if tick.ended]
    assert [(end.decision.reason, end.error) for end in ends] == [
        (Reason.QUALITY_DOWN, ""),
        (Reason.QUALITY_UP, ""),
    ], [(tick.decision.reason.name, tick.decision.terms) for tick in ticks[-3:]]
    assert versions == [2, 1]
    assert {end.action.kind for end in ends if end.action} == {ReloadKind.IN_PLACE}
    assert settings_of(repository.read_config(MODEL.name)).version == 1
    assert results[0].number_of(Outcome.FAILED) == 0
    assert results[0].number_of(Outcome.OK) > 1000
