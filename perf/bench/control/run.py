"""One run of one rule over one trace: what came of every request, and what the rule did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control.core.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeMade:
    """One change of the settings.

    Attributes:
        begun_s, ended_s: on the trace's time axis.
        reason: name of the decision's reason.
        before, after: the settings.
        reload: whether it was a full reload.
        ok: False when it was refused and rolled back.
    """

    begun_s: float
    ended_s: float
    reason: str
    before: Settings
    after: Settings
    reload: bool
    ok: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRun:
    """One rule over one trace. Times are seconds from the start of what is measured.

    The warm-up before it is played but not counted; its changes have times below 0.

    Attributes:
        rule: as users name it, with its options, such as ``hpa-utilisation(target=0.7)``.
        trace_name, description, seed: of the arrivals.
        simulated: whether the server was the simulator; a figure from it is always labelled so.
        slo_s: SLO on latency.
        duration_s: of what is measured.
        intended_s: float64 [n], when each request was meant to arrive, ascending from 0.
        latency_s: float64 [n], from the intended time; inf where there was no good answer.
        failed: requests that ended with an error.
        paid: (at_s, instances), ascending: what is paid for. An instance counts from the start of
            its loading to the end of its removal.
        changes: what was changed.
        expected: (at_s, p99_s that the rule expected at its decision); empty where it says nothing.
        controller_cpu_s: CPU seconds of the deciding process while it is measured; nan unknown.
        busy_fraction: mean use of the machine's cores in the same time; nan unknown.
        valid, invalid_reason: False when the client could not keep up.
    """

    rule: str
    trace_name: str
    description: str
    seed: int
    simulated: bool
    slo_s: float
    duration_s: float
    intended_s: NDArray[np.float64] = field(repr=False)
    latency_s: NDArray[np.float64] = field(repr=False)
    failed: int = 0
    paid: tuple[tuple[float, int], ...] = field(default=(), repr=False)
    changes: tuple[ChangeMade, ...] = field(default=(), repr=False)
    expected: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    controller_cpu_s: float = float("nan")
    busy_fraction: float = float("nan")
    valid: bool = True
    invalid_reason: str = ""
