"""Runs of the controllers' benchmark, made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from control.core.types import Settings
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.control.tables import Meta

META = Meta(
    title="Controllers compared",
    served="an emulator",
    hardware="2 cores",
    date="today",
    command="conch perf bench control",
    steps_s={"step": (10.0, 30.0)},
)


def settings(instances: int) -> Settings:
    """Settings with this many instances."""
    return Settings(
        instances=instances, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0
    )


def change(before: int, after: int, begun_s: float, ended_s: float, **other: Any) -> ChangeMade:
    """A change of the count."""
    return ChangeMade(
        begun_s=begun_s,
        ended_s=ended_s,
        reason="SCALE_UP_LOAD",
        before=settings(before),
        after=settings(after),
        **{"reload": False, **other},
    )


def a_run(
    rule: str, *, seed: int = 1, instances: int = 2, missed: int = 0, **other: Any
) -> ControlRun:
    """40 s at 100 requests a second, of which the first ``missed`` took a second."""
    intended_s = np.arange(4000) / 100
    latency_s = np.full(4000, 0.05)
    latency_s[:missed] = 1.0
    values: dict[str, Any] = {
        "rule": rule,
        "trace_name": "step",
        "description": "made by hand",
        "seed": seed,
        "simulated": False,
        "slo_s": 0.4,
        "duration_s": 40.0,
        "intended_s": intended_s,
        "latency_s": latency_s,
        "paid": ((-5.0, instances),),
        "busy_fraction": 0.2,
        "controller_cpu_s": 0.4,
    }
    return ControlRun(**{**values, **other})
