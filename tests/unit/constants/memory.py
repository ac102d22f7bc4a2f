"""Outcomes of the constants of ``core/memory``."""

from __future__ import annotations

from dataclasses import replace

from control.core.load.demand import bounds_of, dispersion
from control.core.memory.bounds import CpuUse, effective, least_batch_limit
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.types import Observation
from serving.metrics import ModelCounters
from tests.unit.constants.case import first, outcome, steps
from tests.unit.story import a_policy, loaded_in, settings


def _look(at_s: float, *, cpu_s: float = 0.0, requests: float = 0.0) -> Observation:
    return Observation(
        at_s=at_s,
        tick_id="t",
        counters=ModelCounters(success=requests),
        statistics=None,
        applied=settings(),
        cpu_s=cpu_s,
    )


@outcome("memory.changes.LOADS_LOOKED_AT")
def _() -> object:
    """Changes of 9 s after one of 3 s until loading is taken to need 9 s."""

    def needs(count: int) -> bool:
        state = ControlState(changes=(loaded_in(3.0), *[loaded_in(9.0)] * count))
        return state.load_s(a_policy()) == 9.0

    return first(range(1, 30), needs)


def _kept(tick_s: float, count: int) -> ControlState:
    """After so many looks this far apart."""
    state, policy = ControlState(), a_policy(stale_s=10.0)
    for n in range(count):
        state = state.absorb(_look(1000.0 + n * tick_s, requests=100.0 * n * tick_s), policy)
    return state


@outcome("memory.state.HORIZON_S")
def _() -> object:
    """Seconds after 200 and 0 req/s in turn until a steady load of 100 is 95 req/s at least."""
    state, total = ControlState(), 0.0
    for n in range(160):
        total += 100.0 if n >= 60 else 200.0 * (1 - n % 2)
        state = state.absorb(_look(1000.0 + n, requests=total), a_policy())
        bounds = bounds_of(state.intervals, spread=dispersion(state.intervals))
        if n >= 60 and max(bound.low_rps for bound in bounds) >= 95.0:
            return n - 59
    return None


@outcome("memory.state.LONGER_TICK")
def _() -> object:
    """Greatest length of a second tick that is believed after one of 20 s, s."""

    def believed(span_s: float) -> bool:
        state = _kept(20.0, 2)
        seen = _look(1020.0 + span_s, requests=2000.0 + 100.0 * span_s)
        return bool(state.absorb(seen, a_policy(stale_s=10.0)).intervals)

    return first(reversed(steps(10.0, 70.0, 1.0)), believed)


def _use(*seconds: tuple[float, float]) -> CpuUse:
    """After looks in which the instances were so long busy with so much CPU time."""
    use, cpu_s = CpuUse(), 0.0
    old = _look(0.0)
    for n, (busy_s, used_s) in enumerate(seconds, start=1):
        cpu_s += used_s
        new = _look(float(n), cpu_s=cpu_s)
        use, old = use.absorb(old, new, busy_s=busy_s), new
    return use


@outcome("memory.bounds.WAITS_BELOW")
def _() -> object:
    """Least use of the CPU while busy, %, at which a model counts as computing."""
    return first(range(1, 150), lambda n: _use(*[(1.0, n / 100)] * 20).waits is False)


@outcome("memory.bounds.LEAST_BUSY_S")
def _() -> object:
    """Looks of half a busy second until it is known whether a model waits."""
    return first(range(1, 30), lambda n: _use(*[(0.5, 0.0)] * n).waits is not None)


@outcome("memory.bounds.KEPT_BUSY_S")
def _() -> object:
    """Busy seconds of pure computing, after 200 of pure waiting, until it counts as computing."""
    return first(
        range(1, 300), lambda n: _use(*[(1.0, 0.0)] * 200, *[(1.0, 1.0)] * n).waits is False
    )


@outcome("memory.bounds.GROWTH")
def _() -> object:
    """The most of a model that waits, with 3 in force, where any count is trusted."""
    three = settings(3)
    policy = Policy(slo_s=0.1, cores=2, unwritten=("max_instances",))
    found = effective(
        policy, owner=three, applied=three, refused_rows=None, waits=True, trusted=1000
    )
    return found.max_instances


@outcome("memory.bounds.BATCHED_REQUESTS", about=1.0)
def _() -> object:
    """Least items of 1,000 requests at which requests bring batches of their own."""

    def brings(items: int) -> bool:
        counted = ModelCounters(success=1000.0, inference_count=float(items))
        seen = replace(_look(0.0), counters=counted)
        return least_batch_limit(seen) > 1

    return first(range(1000, 1300, 5), brings)
