"""One open-loop probe of ``conch perf bench tuned``: a rate, played for one window."""

from __future__ import annotations

import functools
import threading
import time

import numpy as np

from conch.errors import LoadError
from perf import slo, traces
from perf.bench import tuned_score
from perf.bench.tuned_score import Tried
from perf.replay import Progress, ReplayTarget, replay
from perf.replay_result import ReplayResult
from serving.client import TritonClient

OVERLOAD_SLOS = 3.0
"""A p99 of so many SLOs, or as much work waiting, ends a probe early."""


def probe(
    client: TritonClient,
    target: ReplayTarget,
    slo_s: float,
    rate_rps: float,
    *,
    window_s: float,
    seed: int,
) -> Tried:
    """What came of the rate; afterwards the server is idle again.

    A probe that misses the SLO only because the client sent late is made once more.

    Raises:
        LoadError: when requests fail.
    """
    trace = traces.poisson(rate_rps, window_s, seed=seed)
    for _ in range(2):
        stop = threading.Event()
        run = replay(
            trace,
            target,
            slo_s=slo_s,
            deadline_s=10.0,
            on_progress=functools.partial(_watch, stop, slo_s, rate_rps),
            stop=stop,
        )
        if not (stop.is_set() or run.valid) and _clients_fault(run, slo_s):
            continue
        break
    if errors := run.error_counts():
        raise LoadError(
            f"bench tuned: {sum(errors.values())} requests failed ({next(iter(errors))}).",
            hint="Look into the server's log; try `conch perf run` with the same --shape.",
        )
    answered_s = run.latency_s[~np.isnan(run.sent_s)]
    attainment = 0.0 if stop.is_set() else slo.slo_attainment(run.latency_s, slo_s)
    found = Tried(rate_rps=rate_rps, attainment=attainment, p99_s=slo.percentile_s(answered_s, 99))
    if not found.carried:
        _drain(client, target, slo_s)
    return found


def _watch(stop: threading.Event, slo_s: float, rate_rps: float, seen: Progress) -> None:
    """End a probe that is clearly too much."""
    waiting = max(20.0, OVERLOAD_SLOS * slo_s * rate_rps)
    if seen.p99_s > OVERLOAD_SLOS * slo_s or seen.outstanding > waiting:
        stop.set()


def _clients_fault(run: ReplayResult, slo_s: float) -> bool:
    """Whether a run misses the SLO only because our own client sent late."""
    served_s = run.latency_s - (run.sent_s - run.intended_s)
    return (
        slo.slo_attainment(run.latency_s, slo_s)
        < tuned_score.TARGET
        <= slo.slo_attainment(served_s, slo_s)
    )


def _drain(client: TritonClient, target: ReplayTarget, quiet_s: float) -> None:
    """Wait until three requests in a row take less than ``quiet_s``; 15 s at most."""
    until_s = time.monotonic() + 15.0
    quiet = 0
    while quiet < 3 and time.monotonic() < until_s:
        start_s = time.monotonic()
        client.infer(target.model, target.inputs)
        quiet = quiet + 1 if time.monotonic() - start_s < quiet_s else 0
