"""What rate can a server carry: short open-loop Poisson probes, upwards and then halving the gap.

A rate is carried when the p99 latency of a probe, from the intended arrivals, is within the SLO. A
short probe finds overload well: 5 % above what a server carries, a backlog grows by 50 ms each
second. One hiccup of the machine looks the same, so only a rate that fails twice is too much. A
probe finds the p99 itself roughly (some 300 requests), so take the rate as good to about 10 %.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conch.errors import LoadError
from perf import slo
from perf.replay import Progress, ReplayTarget, replay
from perf.replay_result import ReplayResult
from perf.traces import poisson
from serving.client import TritonClient

GROWTH = 1.6  # factor between probes until one is not carried, where nothing is known before
PRECISION = 0.08  # stop when the gap is below this share of the rate
OVERLOAD_SLOS = 3.0  # a p99 of so many SLOs, or as much work waiting, ends a probe early
CARRIED_FRACTION = 0.99
PROBE_OVERHEAD_S = 1.2  # starting a sender and letting the last answers come
MEASURE_COUNT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One short run at one rate; p99 is inf when the probe was ended early with answers missing."""

    rate_rps: float
    p99_s: float
    attainment_fraction: float
    carried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The greatest rate that a probe found carried.

    Attributes:
        rate_rps: That rate; 0 when not even the lowest probe was carried.
        p99_s: The p99 latency seen at it; nan when ``rate_rps`` is 0.
        slo_s: The SLO it was judged by.
        bounded: Whether a higher probe failed; False when the budget ended before one did.
        probes: Every probe, in order.
    """

    rate_rps: float
    p99_s: float
    slo_s: float
    bounded: bool
    probes: tuple[Probe, ...]


def find_capacity(
    target: ReplayTarget,
    slo_s: float,
    *,
    budget_s: float = 20.0,
    probe_s: float = 3.0,
    start_rps: float | None = None,
    growth: float = GROWTH,
    seed: int = 1,
    on_probe: Callable[[Probe], None] | None = None,
) -> Capacity:
    """Probe the server until the rate is known to 8 % or the time is used up.

    Args:
        target: where to, and what.
        slo_s: SLO on latency.
        budget_s: about how long it may take; a probe is not begun that would exceed it.
        probe_s: length of a probe.
        start_rps: the first rate; None takes half of what one request after the other gives.
        growth: factor between probes until one is carried and one is not; small where the first
            rate is a good guess.
        seed: for the arrivals; each probe adds its number.
        on_probe: called after each probe.

    Raises:
        TritonUnavailable: when there is no server, or it stops answering.
        LoadError: when requests fail, or the replayer itself is the limit.
    """
    until_s = time.monotonic() + budget_s
    with TritonClient(target.grpc_url, deadline_s=30.0) as client:
        base_s = _base_latency_s(client, target)
        rate_rps = start_rps or 0.5 / base_s
        probes: list[Probe] = []
        low = high = None
        while not probes or time.monotonic() + probe_s + PROBE_OVERHEAD_S < until_s:
            for attempt in range(2):
                probe = _probe(target, slo_s, rate_rps, probe_s, seed + len(probes), attempt)
                if probe is None:  # the replayer fell behind: not the server's fault, once more
                    continue
                probes.append(probe)
                if on_probe:
                    on_probe(probe)
                if probe.carried:
                    break
                _drain(client, target, max(2 * base_s, slo_s))
            if probes[-1].carried:
                low = probes[-1]
            else:
                high = probes[-1]
            if low and high and high.rate_rps - low.rate_rps < PRECISION * low.rate_rps:
                break
            rate_rps = _next_rate(low, high, growth)
    return Capacity(
        rate_rps=low.rate_rps if low else 0.0,
        p99_s=low.p99_s if low else float("nan"),
        slo_s=slo_s,
        bounded=high is not None,
        probes=tuple(probes),
    )


def _next_rate(low: Probe | None, high: Probe | None, growth: float) -> float:
    """Up while nothing failed, down while nothing was carried, else the geometric middle."""
    if low and high:
        return float(np.sqrt(low.rate_rps * high.rate_rps))
    if low:
        return low.rate_rps * growth
    if high:
        return high.rate_rps / growth**2
    raise ValueError("no probe yet, must have at least one")


def _probe(
    target: ReplayTarget, slo_s: float, rate_rps: float, probe_s: float, seed: int, attempt: int
) -> Probe | None:
    """One rate, tried; ended early when it is clearly too much.

    None when the first attempt was not valid.

    Raises:
        LoadError: when requests failed, or the second attempt was not valid either.
    """
    stop = threading.Event()

    def watch(seen: Progress) -> None:
        waiting_limit = max(20.0, OVERLOAD_SLOS * slo_s * rate_rps)
        if seen.p99_s > OVERLOAD_SLOS * slo_s or seen.outstanding > waiting_limit:
            stop.set()

    trace = poisson(rate_rps, probe_s, seed=seed)
    result = replay(trace, target, slo_s=slo_s, deadline_s=10.0, on_progress=watch, stop=stop)
    if attempt == 0 and not stop.is_set() and not result.valid and not result.error_counts():
        return None
    _check(result, stopped=stop.is_set())
    answered_s = result.latency_s[~np.isnan(result.sent_s)]
    attained = 0.0 if stop.is_set() else slo.slo_attainment(answered_s, slo_s)
    return Probe(
        rate_rps=rate_rps,
        p99_s=slo.percentile_s(answered_s, 99),
        attainment_fraction=attained,
        carried=attained >= CARRIED_FRACTION,
    )


def _check(result: ReplayResult, *, stopped: bool) -> None:
    """Raise unless the probe speaks of the server's speed."""
    if errors := result.error_counts():
        raise LoadError(
            f"capacity probe: {sum(errors.values())} requests failed ({next(iter(errors))}).",
            hint="Look into the server's log; try `conch perf run` with the same --shape.",
        )
    if not stopped and not result.valid:
        raise LoadError(
            f"capacity probe: {result.invalid_reason}.",
            hint="This machine cannot drive a higher rate; the figure would be the client's.",
        )


def _base_latency_s(client: TritonClient, target: ReplayTarget) -> float:
    """Median seconds of one request after the other."""
    client.infer(target.model, target.inputs)
    times_s = []
    for _ in range(MEASURE_COUNT):
        start_s = time.monotonic()
        client.infer(target.model, target.inputs)
        times_s.append(time.monotonic() - start_s)
    return float(np.median(times_s))


def _drain(client: TritonClient, target: ReplayTarget, quiet_s: float) -> None:
    """Wait until three requests in a row take less than ``quiet_s``; 15 s at most."""
    until_s = time.monotonic() + 15.0
    quiet = 0
    while quiet < 3 and time.monotonic() < until_s:
        start_s = time.monotonic()
        client.infer(target.model, target.inputs)
        quiet = quiet + 1 if time.monotonic() - start_s < quiet_s else 0
