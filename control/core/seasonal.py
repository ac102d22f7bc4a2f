"""What comes back: the daily (or any other) wave in the arrival rate, where it proves itself.

Theory of operation. Rates are kept in bins, a bounded number of them: when they are too many, two
become one of twice the length, so that minutes and days are seen by the same code. The period is
the first high peak of the autocorrelation; a few harmonics of it are fitted to the older three
quarters of the bins, which must hold two full periods. The newest quarter is the judge: the wave is
taken only if adding its change over the horizon makes the naive forecast (what the newest bins
had) better by a tenth. So noise, and steps that do not come back, are no season.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BIN_S = 5.0
MAX_BINS = 2048
RECALLED_S = MAX_BINS * BIN_S
"""How much of the past a history of the shortest bins holds, seconds."""
LONGEST_GAP = 12
"""Bins without a reading that are filled; after a longer gap the history starts again."""
HARMONICS = 4
NAIVE_S = 6.0
FULL_PERIODS = 2
SHORTEST_BINS = 8
LEAST_CORRELATION = 0.3
LEAST_GAIN = 0.1
NEAR_HIGHEST = 0.9
"""A peak this near to the highest is as good: multiples of a period correlate as well."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Mean rates in bins of equal length, the newest last.

    Attributes:
        bin_s: length of a bin.
        rates_rps: of the bins that are over.
        index: of the bin that is being filled: its start is index · bin_s.
        requests, seconds: in that bin so far.
    """

    bin_s: float = BIN_S
    rates_rps: tuple[float, ...] = ()
    index: int = 0
    requests: float = 0.0
    seconds: float = 0.0

    def add(self, rate_rps: float, at_s: float, span_s: float) -> History:
        """The history with an interval that ended at ``at_s``; bad numbers change nothing."""
        if not (0 <= rate_rps < math.inf and 0 < span_s < math.inf and math.isfinite(at_s)):
            return self
        index = math.floor((at_s - span_s / 2) / self.bin_s)
        requests = rate_rps * span_s
        missed = index - self.index - 1
        if self.seconds == 0 or missed >= LONGEST_GAP:
            return History(bin_s=self.bin_s, index=index, requests=requests, seconds=span_s)
        if missed < 0:
            if index < self.index:
                return self
            return History(
                bin_s=self.bin_s,
                rates_rps=self.rates_rps,
                index=index,
                requests=self.requests + requests,
                seconds=self.seconds + span_s,
            )
        over = (self.requests / self.seconds,) * (1 + missed)
        return History(
            bin_s=self.bin_s,
            rates_rps=self.rates_rps + over,
            index=index,
            requests=requests,
            seconds=span_s,
        )._bounded()

    def _bounded(self) -> History:
        """At most MAX_BINS: else two bins become one."""
        if len(self.rates_rps) <= MAX_BINS:
            return self
        rates = self.rates_rps[(self.index - len(self.rates_rps)) % 2 :]
        if self.index % 2:  # the bin being filled takes in the one before
            before, rates = rates[-1] * self.bin_s, rates[:-1]
        else:
            before = 0.0
        return History(
            bin_s=2 * self.bin_s,
            rates_rps=tuple((a + b) / 2 for a, b in zip(rates[::2], rates[1::2], strict=True)),
            index=self.index // 2,
            requests=self.requests + before,
            seconds=self.seconds + (self.bin_s if before else 0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seasonal:
    """A wave that proved itself.

    Attributes:
        period_s: its length.
        sines, cosines: requests/s, by harmonic.
        gain_fraction: by how much it made the naive forecast's mean absolute error smaller.
    """

    period_s: float
    sines: tuple[float, ...]
    cosines: tuple[float, ...]
    gain_fraction: float

    def change_rps(self, at_s: float, horizon_s: float) -> float:
        """By how much the wave rises from ``at_s`` to ``horizon_s`` later; negative if it falls."""
        return self._wave(at_s + horizon_s) - self._wave(at_s)

    def _wave(self, at_s: float) -> float:
        """The wave itself."""
        turn = 2.0 * math.pi * at_s / self.period_s
        return sum(
            sine * math.sin(turn * k) + cosine * math.cos(turn * k)
            for k, (sine, cosine) in enumerate(zip(self.sines, self.cosines, strict=True), start=1)
        )


def find(history: History, *, horizon_s: float, period_s: float | None = None) -> Seasonal | None:
    """The wave in the history if there is one that helps ``horizon_s`` ahead, else None.

    ``period_s`` is detected when it is None. Costs about a millisecond: not for every tick.
    """
    rates = np.asarray(history.rates_rps, dtype=np.float64)
    known = rates.size * 3 // 4
    period = _period(rates[:known]) if period_s is None else period_s / history.bin_s
    if period is None or not SHORTEST_BINS <= period <= known / FULL_PERIODS:
        return None
    middle_s = (history.index - rates.size + np.arange(rates.size) + 0.5) * history.bin_s
    turn = 2.0 * np.pi * middle_s / (period * history.bin_s)
    waves = np.column_stack(
        [wave(turn * k) for k in range(1, HARMONICS + 1) for wave in (np.sin, np.cos)]
    )
    design = np.column_stack((np.ones(known), waves[:known]))
    weights = np.linalg.lstsq(design, rates[:known], rcond=None)[0][1:]
    gain = _gain(rates, waves @ weights, known, horizon_s / history.bin_s, history.bin_s)
    if gain <= LEAST_GAIN:
        return None
    return Seasonal(
        period_s=period * history.bin_s,
        sines=tuple(weights[0::2].tolist()),
        cosines=tuple(weights[1::2].tolist()),
        gain_fraction=gain,
    )


def _gain(rates: Floats, wave: Floats, known: int, ahead: float, bin_s: float) -> float:
    """How much smaller the wave makes the naive forecast's error on the bins after ``known``."""
    width = max(1, round(NAIVE_S / bin_s))
    steps = max(1, round(ahead))
    last = np.arange(known, rates.size - steps)
    if last.size < SHORTEST_BINS:
        return 0.0
    recent = last[:, None] - np.arange(width)
    naive = rates[recent].mean(axis=1)
    change = wave[last + steps] - wave[recent].mean(axis=1)
    truth = rates[last + steps]
    error = np.abs(truth - naive).mean()
    if error == 0:
        return 0.0
    return float(1.0 - np.abs(truth - naive - change).mean() / error)


def _period(rates: Floats) -> float | None:
    """The lag, in bins, of the highest peak of the autocorrelation; None without a clear one."""
    size = rates.size
    longest = size // FULL_PERIODS
    if longest < SHORTEST_BINS + 1:
        return None
    # A slow drift is no season, and correlates at every lag.
    steps = np.arange(size)
    flat = rates - np.polyval(np.polyfit(steps, rates, 1), steps)
    power = np.abs(np.fft.rfft(flat, 2 * size)) ** 2
    raw = np.fft.irfft(power)[: longest + 2] / (size - np.arange(longest + 2))
    if raw[0] <= 0:
        return None
    correlation = raw / raw[0]
    inner = np.arange(SHORTEST_BINS, longest + 1)
    peaks = inner[
        (correlation[inner] >= correlation[inner - 1])
        & (correlation[inner] > correlation[inner + 1])
        & (correlation[inner] >= LEAST_CORRELATION)
    ]
    if not peaks.size:
        return None
    high = peaks[correlation[peaks] >= NEAR_HIGHEST * correlation[peaks].max()]
    period, times = _top(correlation, int(high[0])), 1
    while 2 * times * period <= longest:  # a multiple's peak tells the period more exactly
        times *= 2
        middle = round(times * period)
        around = np.arange(middle - 2, min(middle + 2, longest) + 1)
        period = _top(correlation, int(around[np.argmax(correlation[around])])) / times
    return period


def _top(values: Floats, index: int) -> float:
    """Where the parabola through the value at ``index`` and its neighbours is highest."""
    left, here, right = values[index - 1 : index + 2]
    bend = left - 2 * here + right
    return index + (min(0.5, max(-0.5, 0.5 * float((left - right) / bend))) if bend < 0 else 0.0)
