"""The quality knob on a real Triton: a cheaper version serves in an overload, and gives way after.

The models are emulated accelerators: batches sleep, so that the times are the same on any machine.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest

from control import life, session
from control.act.baseline import Baseline
from control.act.knobs import settings_of
from control.core.reasons import Reason
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from perf import traces
from perf.bench.emulated import EmulatedModel, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving import model_config
from serving.model_config import ReloadKind
from serving.repository import Repository
from serving.runtime import endpoint as endpoints

POLICY = ModelPolicy(
    slo=0.3,
    max_instances=1,
    rebatch=False,
    fast_window=0.5,
    stable_window=1.5,
    cooldown=0.5,
    load_time=0.3,
)
TICK_S = 0.25
OVERLOAD = traces.steps(((60.0, 4.0), (260.0, 5.0), (60.0, 70.0)), seed=5)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Versions, best first, and the changes that they lead to."""

    versions: dict[int, tuple[float, float]]
    order: tuple[int, ...]
    changes: tuple[tuple[Reason, int, tuple[int, ...]], ...]


BEST, CHEAP = (0.004, 0.016), (0.001, 0.008)
CASES = {
    "the best has the lowest number": Case(
        versions={1: BEST, 2: CHEAP},
        order=(1, 2),
        changes=((Reason.QUALITY_DOWN, 2, ()), (Reason.QUALITY_UP, 1, ())),
    ),
    "the best has the highest number": Case(
        versions={1: CHEAP, 2: BEST},
        order=(2, 1),
        changes=(
            (Reason.QUALITY_STANDBY, 2, (1,)),
            (Reason.QUALITY_DOWN, 1, ()),
            (Reason.QUALITY_UP, 2, (1,)),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_overload_is_served_by_the_cheaper_version_and_nobody_fails(
    tmp_path_factory, start_server, connect, monkeypatch, case: Case
) -> None:
    """1 instance at most: the cheaper version takes over in place, the best one comes back."""
    (alpha_s, beta_s), more = case.versions[1], {2: case.versions[2]}
    model = EmulatedModel(alpha_s=alpha_s, beta_s=beta_s, load_s=0.3, more_versions=more)
    policy = POLICY.model_copy(update={"versions": list(case.order)})
    folder = tmp_path_factory.mktemp("quality")
    publish(model, folder / "repository")
    repository = Repository(folder / "repository")
    if case.order[0] == 2:  # as many owners have it: the newest serves
        newest = model_config.with_newest_version(repository.read_config(model.name))
        (repository.root / model.name / "config.pbtxt").write_text(model_config.to_text(newest))
    server = start_server(repository.root)
    client = connect(server)
    monkeypatch.setenv("CONCH_CACHE", str(folder / "cache"))
    endpoints.save(server.endpoint)
    first = settings_of(client.config(model.name))
    assert (first.version or 2, first.standby) == (case.order[0], ())

    stop, results, ticks = threading.Event(), list[ReplayResult](), list[Tick]()
    items = {"x": np.ones((1, 1), np.float32)}
    target = ReplayTarget(grpc_url=server.endpoint.grpc_url, model=model.name, inputs=items)
    load = threading.Thread(
        target=lambda: results.append(replay(OVERLOAD, target, slo_s=POLICY.slo, stop=stop))
    )
    served: list[tuple[int | None, tuple[int, ...]]] = []

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if tick.ended is not None:
            now = settings_of(client.config(model.name))
            served.append((now.version, now.standby))
            if len(served) == len(case.changes):
                stop.set()

    load.start()
    try:
        file = PolicyFile(tick=TICK_S, models={model.name: policy})
        with session.session(server.endpoint, repository, file, mode=Mode.ACTIVE) as loop:
            known = loop.policies[model.name]
            loop.policies = {model.name: replace(known, settle_s=0.5, burn_short_s=3.0)}
            life.run(loop, tick_s=TICK_S, stop=stop, duration_s=75.0, on_tick=saw)
    finally:
        stop.set()
        load.join()
    ends = [tick.ended for tick in ticks if tick.ended]
    assert [(end.decision.reason, end.error) for end in ends] == [
        (reason, "") for reason, _, _ in case.changes
    ], [(tick.decision.reason.name, tick.decision.terms) for tick in ticks[-3:]]
    assert served == [(version, standby) for _, version, standby in case.changes]
    assert {end.action.kind for end in ends if end.action} == {ReloadKind.IN_PLACE}
    assert settings_of(repository.read_config(model.name)).version == case.order[0]
    assert not Baseline(repository).of(model.name, client.config(model.name)).edited
    assert results[0].number_of(Outcome.FAILED) == 0
    assert results[0].number_of(Outcome.OK) > 1000
