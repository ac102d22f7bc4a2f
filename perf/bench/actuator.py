"""Benchmark of the actuator: resizes and reloads of a served model while it is under load.

What counts is that no request fails because of an action; the seconds per action are reported.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conch.errors import LoadError
from control.act.actuator import Actuator
from control.act.knobs import settings_of
from control.action import Action, Outcome
from control.core.types import Settings
from perf import traces
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome as RequestOutcome
from perf.replay_result import ReplayResult
from serving.client import TritonClient
from serving.model_config import ReloadKind
from serving.repository import Repository

LONGEST_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActuatorBench:
    """What the actions cost.

    Attributes:
        model: whose.
        rate_rps: offered load during all of it.
        requests, failed: sent while the actions ran; failed ones got an error.
        p99_ms, slowest_ms: of the requests' latency.
        seconds: of each action, by kind.
        rolled_back: actions that did not hold.
    """

    model: str
    rate_rps: float
    requests: int
    failed: int
    p99_ms: float
    slowest_ms: float
    seconds: dict[str, list[float]]
    rolled_back: int

    def as_json(self) -> dict[str, Any]:
        """The figures with the spread of the seconds per action."""
        return {
            "schema": 1,
            "model": self.model,
            "rate_rps": self.rate_rps,
            "requests": self.requests,
            "failed": self.failed,
            "p99_ms": round(self.p99_ms, 1),
            "slowest_ms": round(self.slowest_ms, 1),
            "rolled_back": self.rolled_back,
            "actions": {
                kind: {
                    "count": len(took),
                    "median_s": round(statistics.median(took), 3),
                    "max_s": round(max(took), 3),
                }
                for kind, took in self.seconds.items()
                if took
            },
        }


def bench_actuator(
    client: TritonClient,
    repository: Repository,
    target: ReplayTarget,
    *,
    resizes: int,
    reloads: int,
    rate_rps: float,
    on_action: Callable[[Action], None],
) -> ActuatorBench:
    """Resize 1 ↔ 2 instances and reload with two delays, under load; the config is put back.

    Raises:
        ApplyRejected: when a change could neither be applied nor undone.
        LoadError: when the load could not be kept up.
    """
    actuator = Actuator(repository, client)
    before = settings_of(client.config(target.model))
    stop, results = threading.Event(), list[ReplayResult]()
    trace = traces.poisson(rate_rps, LONGEST_S, seed=1)
    load = threading.Thread(
        target=lambda: results.append(replay(trace, target, slo_s=1.0, stop=stop)), daemon=True
    )
    load.start()
    actions = []
    try:
        for wanted in _targets(before, resizes, reloads):
            actions.append(actuator.apply(target.model, wanted, reason="benchmark"))
            on_action(actions[-1])
    finally:
        stop.set()
        load.join()
        actuator.apply(target.model, before, reason="benchmark: back as it was")
    if not results:
        raise LoadError(
            "actuator benchmark: the load ended before the actions did.",
            hint="Run it again with --debug.",
        )
    return _measured(target.model, rate_rps, actions, results[0])


def _targets(before: Settings, resizes: int, reloads: int) -> list[Settings]:
    """The settings to apply, each different from the one before it."""
    counts = [before.instances, before.instances + 1]
    wanted = [replace(before, instances=counts[(n + 1) % 2]) for n in range(resizes)]
    last = wanted[-1] if wanted else before
    delays = [before.max_queue_delay_s, before.max_queue_delay_s + 0.001]
    wanted += [
        replace(last, dynamic_batching=True, max_queue_delay_s=delays[(n + 1) % 2])
        for n in range(reloads)
    ]
    return wanted


def _measured(
    model: str, rate_rps: float, actions: list[Action], seen: ReplayResult
) -> ActuatorBench:
    """The figures of the requests that were sent; the rest of the trace was not needed."""
    sent = seen.outcome != RequestOutcome.UNSENT
    latency_s = (seen.done_s - seen.intended_s)[sent]
    seconds: dict[str, list[float]] = {kind.value: [] for kind in ReloadKind}
    for action in actions:
        seconds[action.kind.value].append(action.seconds)
    return ActuatorBench(
        model=model,
        rate_rps=rate_rps,
        requests=int(np.count_nonzero(sent)),
        failed=seen.number_of(RequestOutcome.FAILED) + seen.number_of(RequestOutcome.LATE),
        p99_ms=float(np.quantile(latency_s, 0.99)) * 1e3,
        slowest_ms=float(latency_s.max()) * 1e3,
        seconds=seconds,
        rolled_back=sum(action.outcome is Outcome.ROLLED_BACK for action in actions),
    )
