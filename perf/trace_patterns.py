"""Patterns of load made of others: a daily curve with bursts, and the rates of a recorded trace.

Pure, as ``perf.traces``: the same arguments and seed give the same trace.
"""

from __future__ import annotations

import numpy as np

from conch.errors import ConfigError
from perf.traces import Times, Trace, cosine, piecewise, positive, thinned

_STARTS = 1
"""Second word of the seed of the bursts' starts: they are drawn apart from the arrivals."""


def bursts(
    low_rps: float,
    high_rps: float,
    duration_s: float,
    *,
    period_s: float,
    burst_factor: float = 2.0,
    burst_s: float = 15.0,
    every_s: float = 90.0,
    seed: int,
) -> Trace:
    """Poisson arrivals along a raised cosine, with one burst somewhere in each slot.

    Args:
        low_rps: the curve's rate at 0 and after each period.
        high_rps: its rate at half a period.
        duration_s: of the trace.
        period_s: of the curve.
        burst_factor: what the rate is multiplied by in a burst.
        burst_s: how long a burst lasts.
        every_s: a slot; each whole slot has one burst inside, its start drawn from the seed.
        seed: fixes the starts and the arrivals.

    Raises:
        ConfigError: when a burst is longer than its slot, or a rate or time is none.
    """
    positive(duration_s=duration_s, burst_factor=burst_factor, burst_s=burst_s, every_s=every_s)
    if burst_s > every_s:
        raise ConfigError(
            f"bursts trace: bursts of {burst_s:g} s, must be at most every_s ({every_s:g}).",
            hint="Shorten the bursts.",
        )
    starts_s = burst_starts(duration_s, burst_s=burst_s, every_s=every_s, seed=seed)
    base = cosine(low_rps, high_rps, period_s)

    def rate(times: Times) -> Times:
        index = np.searchsorted(starts_s, times, side="right") - 1
        since_s = times - np.concatenate([starts_s, [-np.inf]])[index]  # -1 is before the first
        return np.asarray(base(times) * np.where(since_s < burst_s, burst_factor, 1.0))

    return Trace(
        name=f"bursts-{low_rps:g}-{high_rps:g}",
        arrival_s=thinned(rate, high_rps * max(1.0, burst_factor), duration_s, seed),
        duration_s=duration_s,
        description=(
            f"Poisson arrivals, cosine {low_rps:g} to {high_rps:g} req/s, period {period_s:g} s, "
            f"×{burst_factor:g} for {burst_s:g} s once in each {every_s:g} s"
        ),
        seed=seed,
        rate=rate,
    )


def burst_starts(duration_s: float, *, burst_s: float, every_s: float, seed: int) -> Times:
    """When the bursts of ``bursts`` start: float64 [whole slots], seconds, ascending."""
    slots = int(duration_s / every_s + 1e-9)
    rng = np.random.default_rng([seed, _STARTS])
    return np.arange(slots) * every_s + rng.uniform(0.0, every_s - burst_s, slots)


def rate_profile(trace: Trace, *, window_s: float = 10.0, factor: float = 1.0, seed: int) -> Trace:
    """Poisson arrivals at the rates of ``trace``, averaged over windows, times ``factor``.

    Time is kept and the rate is scaled: a trace of 5.5 req/s over 58 minutes becomes, with factor
    27, one of 150 req/s over 58 minutes. ``traces.scaled_to`` squeezes time instead.

    Raises:
        ConfigError: when the trace has no arrivals, or an argument is not above 0.
    """
    positive(window_s=window_s, factor=factor)
    if not trace.count:
        raise ConfigError(f"trace {trace.name}: no arrivals, has no rate.", hint="Widen it.")
    count = int(np.ceil(trace.duration_s / window_s - 1e-9))
    ends_s = np.minimum(np.arange(1, count + 1) * window_s, trace.duration_s)
    edges_s = np.concatenate([[0.0], ends_s])
    rates = np.histogram(trace.arrival_s, edges_s)[0] / np.diff(edges_s) * factor
    rate = piecewise(ends_s, rates)
    return Trace(
        name=f"{trace.name}-x{factor:g}",
        arrival_s=thinned(rate, float(rates.max()), trace.duration_s, seed),
        duration_s=trace.duration_s,
        description=(
            f"{trace.description}; its rate averaged over {window_s:g} s, × {factor:g}, "
            "Poisson arrivals inside"
        ),
        seed=seed,
        rate=rate,
    )
