"""Loads that nothing was tuned on: rates over time, of a length and a seed.

Two a server meets every week (a recorded rate at four times its usual speed, a cold night and then
the day) and six that attack a controller: one that waits, one that goes back too soon, one that
takes a burst for a level. The warm-up of each is what the shape is before 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from perf.bench.control.shapes import Shape, recorded
from perf.traces import Times

ON_OFF_RPS, ON_OFF_S = 150.0, 20.0
SAW_LOW_RPS, SAW_HIGH_RPS, SAW_S = 60.0, 240.0, 35.0
"""A period just above half a minute: patience of that length ends when the load is low."""
SQUARE_LOW_RPS, SQUARE_HIGH_RPS, SQUARE_S, SQUARE_EVERY_S = 60.0, 240.0, 8.0, 45.0
NIGHT_RPS, DAY_RPS, DAWN_S = 3.0, 220.0, 60.0
DRIFT_LOW_RPS, DRIFT_FACTOR = 60.0, 3.0
QUIET_RPS = 2.0
CLUMPED_RPS, CLUMP = 120.0, 6
TAILS_BASE_RPS, TAILS_MOST_RPS, TAILS_EVERY_S = 30.0, 420.0, 60.0
TAILS_SHAPE, TAILS_LEAST_RPS, TAILS_LEAST_S = 1.2, 40.0, 3.0
"""Heights and lengths of bursts by a Pareto law of this shape, from the least on."""
RECORDED_SPEED_FACTOR, RECORDED_BIN_S = 15.0, 2.0


def _on_off(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """On for a while, off for as long."""
    del duration_s, warm_up_s, seed
    return Shape(
        rate=lambda t: np.where(np.floor(t / ON_OFF_S) % 2 == 0, ON_OFF_RPS, 0.0),
        highest_rps=ON_OFF_RPS,
        description=f"Poisson arrivals, {ON_OFF_S:g} s of {ON_OFF_RPS:g} req/s and {ON_OFF_S:g} s "
        "of none in turn",
    )


def _sawtooth(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """Up along a line, down at once."""
    del duration_s, warm_up_s, seed
    span_rps = SAW_HIGH_RPS - SAW_LOW_RPS
    return Shape(
        rate=lambda t: SAW_LOW_RPS + span_rps * (t / SAW_S - np.floor(t / SAW_S)),
        highest_rps=SAW_HIGH_RPS,
        description=f"Poisson arrivals, a sawtooth of {SAW_LOW_RPS:g} to {SAW_HIGH_RPS:g} req/s, "
        f"period {SAW_S:g} s",
    )


def _square(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """A short peak in each period."""
    del duration_s, warm_up_s, seed
    return Shape(
        rate=lambda t: np.where(t % SQUARE_EVERY_S < SQUARE_S, SQUARE_HIGH_RPS, SQUARE_LOW_RPS),
        highest_rps=SQUARE_HIGH_RPS,
        description=f"Poisson arrivals, {SQUARE_HIGH_RPS:g} req/s for {SQUARE_S:g} s in each "
        f"{SQUARE_EVERY_S:g} s, else {SQUARE_LOW_RPS:g}",
    )


def _heavy_tails(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """Bursts of a height and a length that have no mean worth the name."""
    rng = np.random.default_rng((seed, 0x7A11))
    count = int(np.ceil((duration_s + warm_up_s) / TAILS_EVERY_S)) + 1
    starts_s = np.cumsum(rng.exponential(TAILS_EVERY_S, count)) - warm_up_s
    most_rps = TAILS_MOST_RPS - TAILS_BASE_RPS
    heights = np.minimum(TAILS_LEAST_RPS * (1 + rng.pareto(TAILS_SHAPE, count)), most_rps)
    ends_s = starts_s + TAILS_LEAST_S * (1 + rng.pareto(TAILS_SHAPE, count))

    def rate(times: Times) -> Times:
        inside = (times[..., None] >= starts_s) & (times[..., None] < ends_s)
        more_rps = np.minimum((inside * heights).sum(axis=-1), most_rps)
        return np.asarray(TAILS_BASE_RPS + more_rps, dtype=np.float64)

    return Shape(
        rate=rate,
        highest_rps=TAILS_MOST_RPS,
        description=f"Poisson arrivals, {TAILS_BASE_RPS:g} req/s and bursts of Pareto heights and "
        f"lengths (shape {TAILS_SHAPE:g}), up to {TAILS_MOST_RPS:g} req/s",
    )


def _cold_night(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """Next to nothing, then the day within a minute."""
    del warm_up_s, seed
    dawn_s = duration_s / 2
    return Shape(
        rate=lambda t: np.interp(t, (dawn_s, dawn_s + DAWN_S), (NIGHT_RPS, DAY_RPS)),
        highest_rps=DAY_RPS,
        description=f"Poisson arrivals, {NIGHT_RPS:g} req/s, from {dawn_s:g} s on within "
        f"{DAWN_S:g} s {DAY_RPS:g}",
    )


def _drift(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """A slow climb."""
    del warm_up_s, seed
    high_rps = DRIFT_FACTOR * DRIFT_LOW_RPS
    return Shape(
        rate=lambda t: np.interp(t, (0.0, duration_s), (DRIFT_LOW_RPS, high_rps)),
        highest_rps=high_rps,
        description=f"Poisson arrivals, {DRIFT_LOW_RPS:g} to {high_rps:g} req/s along a line",
    )


def _quiet(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """A model that hardly anybody asks."""
    del duration_s, warm_up_s, seed
    return Shape(
        rate=lambda t: np.full_like(t, QUIET_RPS),
        highest_rps=QUIET_RPS,
        description=f"Poisson arrivals, {QUIET_RPS:g} req/s",
    )


def _clumped(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """Clients that send several requests at once: counts scatter more than a Poisson stream's."""
    del duration_s, warm_up_s, seed
    return Shape(
        rate=lambda t: np.full_like(t, CLUMPED_RPS),
        highest_rps=CLUMPED_RPS,
        description=f"{CLUMPED_RPS:g} req/s on average, in Poisson groups of {CLUMP}",
        group=CLUMP,
    )


def _recorded_bursts(duration_s: float, warm_up_s: float, seed: int) -> Shape:
    """The recording with its seconds as they were, bursts and silences and all."""
    return recorded(duration_s, warm_up_s, seed, factor=RECORDED_SPEED_FACTOR, bin_s=RECORDED_BIN_S)


UNTUNED: Mapping[str, Callable[[float, float, int], Shape]] = MappingProxyType(
    {
        "recorded-bursts": _recorded_bursts,
        "heavy-tails": _heavy_tails,
        "on-off": _on_off,
        "sawtooth": _sawtooth,
        "square": _square,
        "cold-night": _cold_night,
        "drift": _drift,
        "quiet": _quiet,
        "clumped": _clumped,
    }
)
"""Rate over time by name; of (duration_s, warm_up_s, seed)."""
