"""What the controller has learnt of a model's service time, ℓ(b, c), from Triton's ``batch_stats``.

Theory of operation. Evidence is kept per setting: instances and threads of one instance. All
settings with the same threads share one curve (``curves``): each is brought to the same footing by
the law of interference (``interference``), which is itself fitted as soon as two instance counts
have been seen. A count that was seen keeps what its own evidence says beyond the law. So what was
learnt about large batches at one count is known at all counts, and a count never seen is predicted;
``trusted_up_to`` says how far such a prediction may be acted upon. Everything is a value; the fit
is made when it is first asked for, and kept with the value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from control.core.service.curves import HALF_FIXED, Point, ServiceTime, curve_through, fit, trust
from control.core.service.evidence import Evidence, Summary, usable
from control.core.service.interference import Interference, Level, fitted, relative_time, share
from control.core.service.slow_seconds import SlowSeconds
from serving.statistics import ModelStatistics

__all__ = ["NO_LIMIT", "Learnt", "ServiceTime", "Surface", "fit", "relative_time"]

NO_LIMIT = 1_000_000
"""What ``trusted_up_to`` answers where nothing speaks against any count."""
FLAT_PER_INSTANCE = 0.05
TELLING_DIFFERENCE = 0.25
"""Busy instances by which two counts must differ before they say anything of interference."""
OTHERS_HALF_LIFE_S = 1800.0
"""How fast evidence of a setting fades beside newer evidence of another."""
LEAST_FRESH = 0.05
LEAST_PAIRS = 5.0
DOUBT_BATCHES = 10.0
LARGEST_CV = 2.0

MOST_TIMES = 1e6
MEASURED = 3.0
"""Batches of one size, or at one count, that are a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """ℓ(b, c) for some number of threads: a curve, a law, and what single counts add to it.

    Attributes:
        curve: ℓ(b) of an instance that is alone.
        law: of interference.
        threads: wanted; cores: shared by the instances, None on an accelerator.
        threads_factor: from the threads that were seen to those wanted.
        own: what each count seen took relative to the law.
        active: busy instances while a batch was executed, by count seen.
    """

    curve: ServiceTime
    law: Interference
    threads: int
    cores: int | None
    threads_factor: float
    own: Mapping[int, float]
    active: Mapping[int, float]

    def at(self, instances: int) -> ServiceTime:
        """The curve when ``instances`` are all busy."""
        return self.curve.scaled(self.factor(instances))

    def factor(self, instances: int) -> float:
        """ℓ with that many busy instances, relative to ``curve``."""
        own = self.own.get(instances)
        if own is None:
            own = self.own[min(self.own, key=lambda count: (abs(count - instances), count))]
        shared = share(instances, threads=self.threads, cores=self.cores)
        return self.law.factor(instances, share=shared) * own * self.threads_factor

    @property
    def compared(self) -> bool:
        """Whether counts were seen that differ enough to tell how instances interfere."""
        active = self.active.values()
        return max(active) - min(active) >= TELLING_DIFFERENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """Evidence by (instances, threads of one instance).

    Attributes:
        seen: by setting.
        clock_s: seconds of learning so far; ages are counted on it.
        sibling: the curve of a model like this one (another precision of it), used until there is
            evidence, and for its shape where evidence is thin.
        slow: how much single seconds differ, whatever the setting.
        times: as long as at first that batches take, by the shifts of the device.
        calm: the evidence after the newest second that was as usual: what a shift is a ratio of.
    """

    seen: Mapping[tuple[int, int], Evidence] = field(default_factory=dict)
    clock_s: float = 0.0
    sibling: ServiceTime | None = None
    slow: SlowSeconds = field(default_factory=SlowSeconds)
    times: float = 1.0
    calm: Mapping[tuple[int, int], Evidence] | None = field(default=None, compare=False)
    _surfaces: dict[tuple[int, int | None], Surface | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def absorb(
        self,
        executed: ModelStatistics,
        *,
        instances: int,
        threads: int,
        span_s: float,
        loading: bool = False,
    ) -> Learnt:
        """The evidence after ``span_s`` more seconds in which these batches were executed.

        While our own change is ``loading`` instances, slow seconds are its doing.
        A number that no batch can have (NaN, 0, years) is no evidence. A time without a batch
        changes nothing.
        """
        if not (0 <= span_s < math.inf and instances >= 1 and threads >= 1):
            return self
        batches = {
            size: stat
            for size, stat in executed.batches.items()
            if usable(size, stat.count, stat.busy_s)
        }
        if not batches:
            return self
        clock_s = self.clock_s + span_s
        key = (instances, threads)
        old = self.seen.get(key) or Evidence()
        new = old.absorb(batches, span_s=span_s, seen_s=clock_s)
        seen, slow, calm = {**self.seen, key: new}, self.slow, self.calm
        before = self.seen if calm is None else calm
        if not loading:
            usual = before.get(key, old)
            slow = slow.absorb(usual.compared(batches), span_s=span_s, setting=key)
        if (shift := slow.shift) != 1.0:
            seen = {at: found.shifted(shift, before.get(at)) for at, found in seen.items()}
            slow = slow.shifted()
        times = min(MOST_TIMES, max(1.0 / MOST_TIMES, self.times * shift))
        if not slow.shifting and slow.ratios is not self.slow.ratios:
            calm = seen
        return replace(self, seen=seen, clock_s=clock_s, slow=slow, calm=calm, times=times)

    def on_device(self, times: float) -> Learnt:
        """The same on the device as it is where another's batches take so many ``times`` as long.

        Of versions of one model, of which one alone is seen at a time.
        """
        factor = times / self.times
        if factor == 1.0:
            return self
        seen = {at: found.shifted(factor, found) for at, found in self.seen.items()}
        return replace(self, seen=seen, times=times, calm=None)

    def at(self, instances: int, *, threads: int, cores: int | None) -> ServiceTime | None:
        """ℓ when this many instances of so many threads are all busy.

        ``cores`` is None where instances do not share this machine's cores (a GPU, an accelerator).
        None without any evidence and without a sibling.
        """
        surface = self.surface(threads=threads, cores=cores)
        if surface is not None:
            return surface.at(instances)
        if self.sibling is None:
            return None
        return self.sibling.scaled(share(instances, threads=threads, cores=cores))

    def foresaw(
        self, executed: ModelStatistics, *, instances: int, threads: int, cores: int | None
    ) -> bool:
        """Whether these batches took no longer than was known of them."""
        known = self.at(instances, threads=threads, cores=cores)
        if known is None:
            return False
        took_s = sum(stat.busy_s for stat in executed.batches.values())
        usual_s = sum(stat.count * known.of(size) for size, stat in executed.batches.items())
        return took_s <= (1.0 + FLAT_PER_INSTANCE) * usual_s

    @property
    def largest_measured(self) -> int:
        """The largest batch of which at least ``MEASURED`` were seen; 0 without any."""
        return max((self.largest_measured_with(t) for _, t in self.seen), default=0)

    def largest_measured_with(self, threads: int) -> int:
        """The same, of instances with so many threads."""
        return max(
            (
                size
                for (_, each), evidence in self.seen.items()
                if each == threads
                for size, tally in evidence.sizes.items()
                if tally.known >= MEASURED
            ),
            default=0,
        )

    def is_measured(self, size: int) -> bool:
        """Whether batches of this size were measured, or of one that is more than half as large."""
        return any(
            size < 2 * each <= 2 * size and tally.known >= MEASURED
            for evidence in self.seen.values()
            for each, tally in evidence.sizes.items()
        )

    def visited(self, threads: int) -> tuple[int, ...]:
        """The instance counts that were seen at work with these threads, ascending."""
        return tuple(
            sorted(
                instances
                for (instances, each), evidence in self.seen.items()
                if each == threads and evidence.summary.batches >= MEASURED
            )
        )

    def trusted_up_to(self, threads: int, cores: int | None) -> int:
        """The largest instance count whose predicted ℓ may be acted upon.

        One more than was seen: the first step is a probe. More where no contention is to be
        expected: on cores that are free, and where counts that were compared hardly differ (within
        the cores this says nothing about what comes beyond them).
        """
        visited = self.visited(threads)
        if not visited:
            return max(1, cores // max(1, threads)) if cores is not None else 1
        top = visited[-1]
        free = top + 1 if cores is None else max(top + 1, cores // max(1, threads))
        surface = self.surface(threads=threads, cores=cores)
        if surface is None or not surface.compared:
            return free
        busiest = max(surface.active.values())
        if share(busiest, threads=threads, cores=cores) == 1.0 and cores is not None:
            return free
        if surface.factor(top + 1) / surface.factor(top) - 1.0 < FLAT_PER_INSTANCE:
            return NO_LIMIT
        return free

    def surface(self, *, threads: int, cores: int | None) -> Surface | None:
        """Everything that is known for these threads; None without any evidence."""
        key = (threads, cores)
        if key not in self._surfaces:
            self._surfaces[key] = self._fitted(threads, cores)
        return self._surfaces[key]

    def _fitted(self, threads: int, cores: int | None) -> Surface | None:
        """The surface from the evidence of the same threads, else of the nearest."""
        if not self.seen:
            return None
        nearest = min((each for _, each in self.seen), key=lambda t: (abs(t - threads), t))
        newest_s = max(at.seen_s for (_, each), at in self.seen.items() if each == nearest)
        settings = [
            _setting(instances, nearest, cores, evidence, age_s=newest_s - evidence.seen_s)
            for (instances, each), evidence in self.seen.items()
            if each == nearest
        ]
        prior = self.sibling or HALF_FIXED
        law = Interference()
        curve = _common(settings, law, prior)
        if len(settings) > 1:
            law = fitted([_level(at, curve) for at in settings])
            if law != Interference():
                curve = _common(settings, law, prior)
        own = {at.instances: _own(at, curve, law) for at in settings}
        return Surface(
            curve=curve,
            law=law,
            threads=threads,
            cores=cores,
            threads_factor=relative_time(0, threads=threads, cores=None)
            / relative_time(0, threads=nearest, cores=None),
            own=own,
            active={at.instances: at.active for at in settings},
        )


class _Setting(NamedTuple):
    """One setting's evidence, ready for the fit; ``fresh`` is 1 for the newest."""

    instances: int
    active: float
    share: float
    summary: Summary
    fresh: float


def _setting(
    instances: int, threads: int, cores: int | None, evidence: Evidence, *, age_s: float
) -> _Setting:
    """The evidence as the fit wants it."""
    active = 1.0 + evidence.active_beside(instances)
    return _Setting(
        instances=instances,
        active=active,
        share=share(active, threads=threads, cores=cores),
        summary=evidence.summary,
        fresh=max(LEAST_FRESH, 0.5 ** (age_s / OTHERS_HALF_LIFE_S)),
    )


def _common(settings: Sequence[_Setting], law: Interference, prior: ServiceTime) -> ServiceTime:
    """The curve of an instance alone, from all settings brought to the same footing."""
    totals: dict[int, tuple[float, float]] = {}
    for at in settings:
        factor = law.factor(at.active, share=at.share)
        for size, mean_s, count in at.summary.points:
            weight = count * at.fresh
            before, seconds = totals.get(size, (0.0, 0.0))
            totals[size] = (before + weight, seconds + weight * mean_s / factor)
    points = [Point(size, s / n, n) for size, (n, s) in sorted(totals.items())]
    cv = 0.0
    if sum(at.summary.pairs for at in settings) >= LEAST_PAIRS:
        change2 = sum(at.summary.change2 for at in settings)
        cv = min(LARGEST_CV, math.sqrt(change2 / sum(at.summary.inverse for at in settings)))
    curve = curve_through(points, prior=prior, cv_fraction=cv)
    assert curve is not None
    return curve


def _level(at: _Setting, curve: ServiceTime) -> Level:
    """How slow the setting was, as the law of interference wants it."""
    ratio, weight = _compared(at, curve)
    return Level(at.active, at.share, ratio, weight)


def _own(at: _Setting, curve: ServiceTime, law: Interference) -> float:
    """What the setting took relative to curve and law; nearer to 1 the less was seen."""
    ratio, weight = _compared(at, curve)
    return float((ratio / law.factor(at.active, share=at.share)) ** weight)


def _compared(at: _Setting, curve: ServiceTime) -> tuple[float, float]:
    """How slow the setting was relative to the curve, and how sure that is (0 to 1)."""
    total = ratio = 0.0
    for size, mean_s, batches in at.summary.points:
        weight = trust(batches)
        total += weight
        ratio += weight * mean_s / curve.of(size)
    seen = at.summary.batches
    return ratio / total, at.fresh * seen / (seen + DOUBT_BATCHES)
