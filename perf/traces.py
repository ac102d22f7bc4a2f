"""Arrival times of requests, fixed before a run starts: generators from a seed, and CSV files.

Every generator is pure: the same arguments and seed give the same trace. Rates are in requests a
second (``_rps``), times in seconds from the start of the run. Arrivals whose rate changes over time
are a non-homogeneous Poisson process, drawn by thinning (Lewis and Shedler, 1979): draw at the
highest rate, keep each arrival with probability rate(t) / highest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError

Times = NDArray[np.float64]
RateFunction = Callable[[Times], Times]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """When requests arrive.

    Attributes:
        name: Short, for tables and file names.
        arrival_s: float64 [n], seconds from the start, ascending, all in [0, duration_s].
        duration_s: Seconds that the trace lasts; the last arrival may be earlier.
        description: How it was made or where it comes from, with units, for figures.
        seed: The random seed, or None when nothing was drawn.
        rate: The true rate behind the arrivals, times in s → req/s, in [0, duration_s]: what a
            clairvoyant would know. None where only the arrivals are known, as for a recording.
    """

    name: str
    arrival_s: Times = field(repr=False)
    duration_s: float
    description: str
    seed: int | None = None
    rate: RateFunction | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reject what no replay could follow."""
        if not 0 < self.duration_s < float("inf"):
            raise ConfigError(
                f"trace {self.name}: duration {self.duration_s} s, must be finite and above 0.",
                hint="Give a positive duration.",
            )
        if self.arrival_s.ndim != 1 or not np.all(np.isfinite(self.arrival_s)):
            raise ConfigError(
                f"trace {self.name}: arrival times of shape {self.arrival_s.shape}, "
                "must be one row of finite seconds.",
                hint="Check where the times come from.",
            )
        if self.arrival_s.size and (
            np.any(np.diff(self.arrival_s) < 0)
            or self.arrival_s[0] < 0
            or self.arrival_s[-1] > self.duration_s
        ):
            raise ConfigError(
                f"trace {self.name}: arrivals from {self.arrival_s[0]:g} to "
                f"{self.arrival_s[-1]:g} s, must ascend within 0 to {self.duration_s:g} s.",
                hint="Sort the times and give the duration that holds them.",
            )

    @property
    def count(self) -> int:
        """How many requests arrive."""
        return int(self.arrival_s.size)

    @property
    def mean_rps(self) -> float:
        """Requests a second over the whole duration."""
        return self.count / self.duration_s

    def peak_rps(self, window_s: float = 1.0) -> float:
        """The highest rate of any aligned window of ``window_s`` seconds."""
        if not self.count:
            return 0.0
        counts = np.bincount((self.arrival_s / window_s).astype(np.int64))
        return float(counts.max() / window_s)


def constant(rate_rps: float, duration_s: float) -> Trace:
    """Evenly spaced arrivals, the first after one gap; no randomness.

    Example:
        >>> constant(2, 2).arrival_s.tolist()
        [0.5, 1.0, 1.5, 2.0]
    """
    positive(rate_rps=rate_rps, duration_s=duration_s)
    count = int(np.floor(rate_rps * duration_s + 1e-9))
    times = np.arange(1, count + 1, dtype=np.float64) / rate_rps
    return Trace(
        name=f"constant-{rate_rps:g}",
        arrival_s=np.minimum(times, duration_s),
        duration_s=duration_s,
        description=f"constant {rate_rps:g} req/s",
        rate=steady(rate_rps),
    )


def poisson(rate_rps: float, duration_s: float, *, seed: int) -> Trace:
    """Independent arrivals at a constant mean rate (squared coefficient of variation 1)."""
    positive(rate_rps=rate_rps, duration_s=duration_s)
    return Trace(
        name=f"poisson-{rate_rps:g}",
        arrival_s=thinned(steady(rate_rps), rate_rps, duration_s, seed),
        duration_s=duration_s,
        description=f"Poisson arrivals, {rate_rps:g} req/s",
        seed=seed,
        rate=steady(rate_rps),
    )


def steps(levels: tuple[tuple[float, float], ...], *, seed: int) -> Trace:
    """Poisson arrivals whose rate jumps: ``levels`` are (rate_rps, seconds), one after the other.

    Example:
        >>> steps(((10, 5), (40, 5), (10, 5)), seed=1).duration_s
        15.0
    """
    if not levels:
        raise ConfigError(
            "step trace: no levels, must have at least one.", hint="Add RATE:SECONDS."
        )
    for rate_rps, length_s in levels:
        not_negative(rate_rps=rate_rps)
        positive(length_s=length_s)
    rates = np.array([rate for rate, _ in levels], dtype=np.float64)
    ends = np.cumsum([length for _, length in levels])
    highest = float(rates.max())
    positive(highest_rate_rps=highest)
    rate = piecewise(ends, rates)
    shape = " → ".join(f"{rate_:g} req/s for {length:g} s" for rate_, length in levels)
    return Trace(
        name="step-" + "-".join(f"{rate_:g}" for rate_, _ in levels),
        arrival_s=thinned(rate, highest, float(ends[-1]), seed),
        duration_s=float(ends[-1]),
        description=f"Poisson arrivals in steps: {shape}",
        seed=seed,
        rate=rate,
    )


def ramp(start_rps: float, end_rps: float, duration_s: float, *, seed: int) -> Trace:
    """Poisson arrivals whose rate changes linearly from ``start_rps`` to ``end_rps``."""
    not_negative(start_rps=start_rps, end_rps=end_rps)
    positive(duration_s=duration_s, highest_rate_rps=max(start_rps, end_rps))
    slope = (end_rps - start_rps) / duration_s

    def rate(times: Times) -> Times:
        return start_rps + slope * times

    return Trace(
        name=f"ramp-{start_rps:g}-{end_rps:g}",
        arrival_s=thinned(rate, max(start_rps, end_rps), duration_s, seed),
        duration_s=duration_s,
        description=f"Poisson arrivals, ramp {start_rps:g} → {end_rps:g} req/s",
        seed=seed,
        rate=rate,
    )


def diurnal(
    low_rps: float, high_rps: float, duration_s: float, *, period_s: float, seed: int
) -> Trace:
    """Poisson arrivals along a raised cosine: ``low_rps`` at 0, ``high_rps`` at half a period."""
    positive(duration_s=duration_s)
    rate = cosine(low_rps, high_rps, period_s)
    return Trace(
        name=f"diurnal-{low_rps:g}-{high_rps:g}",
        arrival_s=thinned(rate, high_rps, duration_s, seed),
        duration_s=duration_s,
        description=(
            f"Poisson arrivals, cosine {low_rps:g} to {high_rps:g} req/s, period {period_s:g} s"
        ),
        seed=seed,
        rate=rate,
    )


def burst(rate_rps: float, duration_s: float, *, cv2: float, seed: int) -> Trace:
    """Renewal arrivals with bursts: hyperexponential gaps of squared coefficient of variation cv2.

    Two phases with balanced means (Tijms, *A First Course in Stochastic Models*, app. B):
    p = (1 + √((cv2 − 1) / (cv2 + 1))) / 2, rates 2pλ and 2(1 − p)λ. A gap is short with
    probability p. cv2 = 1 is Poisson; measured request streams have 1 to 16.

    Raises:
        ConfigError: when ``cv2`` is below 1.

    Example:
        cv2 = 4 gives p = 0.887: 89 % of the gaps are 1.8 times denser than the mean.
    """
    positive(rate_rps=rate_rps, duration_s=duration_s)
    if not 1 <= cv2 < float("inf"):
        raise ConfigError(
            f"burst trace: cv2 = {cv2:g}, must be at least 1.",
            hint="Use 1 for Poisson, 4 to 16 for bursts, or a constant trace for less than 1.",
        )
    rng = np.random.default_rng(seed)
    short = (1 + np.sqrt((cv2 - 1) / (cv2 + 1))) / 2
    chunks: list[Times] = []
    last_s = 0.0
    while last_s <= duration_s:
        size = max(64, int(rate_rps * duration_s * 0.3))
        phase_rate = np.where(rng.random(size) < short, 2 * short, 2 * (1 - short)) * rate_rps
        times = last_s + np.cumsum(rng.exponential(1.0, size) / phase_rate)
        chunks.append(times)
        last_s = float(times[-1])
    times = np.concatenate(chunks)
    return Trace(
        name=f"burst-{rate_rps:g}-cv{cv2:g}",
        arrival_s=times[times <= duration_s],
        duration_s=duration_s,
        description=f"hyperexponential gaps, mean {rate_rps:g} req/s, cv² {cv2:g}",
        seed=seed,
        rate=steady(rate_rps),
    )


def scaled_to(trace: Trace, mean_rps: float) -> Trace:
    """The same pattern with time stretched or squeezed so that the mean rate is ``mean_rps``.

    Squeezing time by k keeps every burst's relative size; a 58-minute trace at 5.5 req/s scaled to
    200 req/s lasts 96 s.
    """
    positive(mean_rps=mean_rps)
    if not trace.count:
        raise ConfigError(f"trace {trace.name}: no arrivals, cannot be scaled.", hint="Widen it.")
    factor, rate = trace.mean_rps / mean_rps, trace.rate
    return Trace(
        name=trace.name,
        arrival_s=np.minimum(trace.arrival_s * factor, trace.duration_s * factor),
        duration_s=trace.duration_s * factor,
        description=f"{trace.description}, time scaled by {factor:.4g} to {mean_rps:g} req/s",
        seed=trace.seed,
        rate=None if rate is None else lambda t: rate(t / factor) / factor,
    )


def window(trace: Trace, start_s: float, length_s: float) -> Trace:
    """The arrivals in [start_s, start_s + length_s), counted from 0.

    Raises:
        ConfigError: when the window lies outside the trace.
    """
    not_negative(start_s=start_s)
    positive(length_s=length_s)
    if start_s + length_s > trace.duration_s + 1e-9:
        raise ConfigError(
            f"trace {trace.name}: window {start_s:g} to {start_s + length_s:g} s, "
            f"must lie within 0 to {trace.duration_s:g} s.",
            hint="Shorten the window.",
        )
    rate = trace.rate
    inside = (trace.arrival_s >= start_s) & (trace.arrival_s < start_s + length_s)
    return Trace(
        name=trace.name,
        arrival_s=trace.arrival_s[inside] - start_s,
        duration_s=length_s,
        description=f"{trace.description}, window {start_s:g} to {start_s + length_s:g} s",
        seed=trace.seed,
        rate=None if rate is None else lambda t: rate(t + start_s),
    )


def steady(rate_rps: float) -> RateFunction:
    """The rate function that is ``rate_rps`` at any time."""
    return lambda times: np.full_like(times, rate_rps, dtype=np.float64)


def piecewise(ends_s: Times, rates_rps: Times) -> RateFunction:
    """The rate function that is ``rates_rps[i]`` up to ``ends_s[i]``; the last one goes on.

    Example:
        >>> piecewise(np.array([5.0, 9.0]), np.array([10.0, 40.0]))(np.array([4.9, 5.0])).tolist()
        [10.0, 40.0]
    """

    def rate(times: Times) -> Times:
        index = np.searchsorted(ends_s, times, side="right").clip(max=len(rates_rps) - 1)
        return np.asarray(rates_rps[index], dtype=np.float64)

    return rate


def cosine(low_rps: float, high_rps: float, period_s: float) -> RateFunction:
    """The raised cosine: ``low_rps`` at 0, ``high_rps`` at half a period.

    Raises:
        ConfigError: when low is above high, or a rate or the period is none.
    """
    not_negative(low_rps=low_rps)
    positive(high_rps=high_rps, period_s=period_s)
    if low_rps > high_rps:
        raise ConfigError(
            f"diurnal trace: low {low_rps:g} req/s, must be at most high ({high_rps:g}).",
            hint="Swap the two rates.",
        )
    half = (high_rps - low_rps) / 2

    def rate(times: Times) -> Times:
        return np.asarray(low_rps + half * (1 - np.cos(2 * np.pi * times / period_s)))

    return rate


def thinned(rate: RateFunction, highest_rps: float, duration_s: float, seed: int) -> Times:
    """Arrivals of a Poisson process with the given rate function, by thinning."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(highest_rps * duration_s))
    times = np.sort(rng.uniform(0.0, duration_s, count))
    keep = rng.uniform(0.0, highest_rps, count) < rate(times)
    return np.asarray(times[keep], dtype=np.float64)


def positive(**values: float) -> None:
    """Raise ConfigError unless every named value is finite and above 0."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigError(
                f"trace: {name} = {value:g}, must be finite and above 0.",
                hint="Raise it.",
            )


def not_negative(**values: float) -> None:
    """Raise ConfigError unless every named value is finite and at least 0."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(
                f"trace: {name} = {value:g}, must be finite and at least 0.",
                hint="Raise it.",
            )
