"""Do the two sources of a model's requests agree? Counters of ``/metrics`` against its statistics.

Theory of operation. Triton counts each answered request twice: in a counter of ``/metrics`` and in
ModelStatistics. A page that stands still (a server with ``counter_latencies=false``, a proxy that
caches), one of zeros, or one of another server looks like no load, or like a jump. So both are
summed over a few seconds, and where they differ by more than the time between the two reads
explains, nothing is believed until they have agreed for a while again. Requests that the page makes
up for at once when it comes back are no load either.

An older copy of a model that still drains is counted by the counters alone: more in the counters
is no contradiction for a while after a reload.
"""

from __future__ import annotations

from dataclasses import dataclass

from control.core.load.windows import Interval

APART_S, APART_BROKEN_S = 1.0, 0.5
"""So much time may lie between the reads of the two sources; less once they contradicted."""
SHARE = 0.25
"""They may differ by this share beside that."""
LEAST_REQUESTS = 5.0
WINDOWS_S = (4.0, 30.0)
"""Both are looked at: a new lie shows in the short one, few requests in the long one."""
AGREED_S, AGREED_LOOKS = 3.0, 3
"""So long they must agree before they are believed again: on a few requests, or on none for the
longest window."""
DRAINS_S = 60.0
"""An older copy may work for so long after a reload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One interval: its end, its length, and the requests answered in it by either source."""

    end_s: float
    span_s: float
    counted: float
    told: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What is remembered of both sources.

    Attributes:
        spans: the newest intervals since they contradicted each other last, oldest first.
        broken: whether they contradict each other, or have not agreed for long enough since.
        reloaded_s: when the statistics began anew last.
        counted_rps, told_rps: answers a second by either, where they contradicted each other last.
    """

    spans: tuple[Span, ...] = ()
    broken: bool = False
    reloaded_s: float | None = None
    counted_rps: float = 0.0
    told_rps: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether they differ just now: no proof, and no ground to shrink on.

        In the newest interval alone, or in the short window: of few requests an interval tells
        nothing. What lies between two reads is not allowed for: a doubt costs one look.
        """
        if not self.spans:
            return self.broken
        newest = self.spans[-1]
        recent = [s for s in self.spans if s.end_s > newest.end_s - min(WINDOWS_S)]
        return _differ(newest.counted, newest.told) or _differ(
            sum(s.counted for s in recent), sum(s.told for s in recent)
        )

    def absorb(self, new: Interval, *, apart_s: float = 0.0) -> Agreement:
        """With one more interval; ``apart_s`` is how old the counters were at the look."""
        if new.statistics is None:
            return Agreement(broken=self.broken, reloaded_s=new.end_s)
        counted = max(0.0, new.completed - new.cache_hits)
        told = float(new.statistics.success_count - new.statistics.cache_hits)
        if told <= 0.0:  # of a server that tells batches only
            told = float(sum(size * stat.count for size, stat in new.statistics.batches.items()))
        span = Span(end_s=new.end_s, span_s=new.span_s, counted=counted, told=told)
        since_s = new.end_s - max(WINDOWS_S)
        kept = tuple(s for s in self.spans if since_s < s.end_s < new.end_s)
        spans = (*kept, span)
        for window_s in WINDOWS_S:
            inside = [s for s in spans if s.end_s > new.end_s - window_s]
            if not self.broken and span.counted > span.told:
                inside = inside[:-1]  # a single look may have read them apart: it must come again
            if not inside:
                continue
            counted, told = sum(s.counted for s in inside), sum(s.told for s in inside)
            seconds = sum(s.span_s for s in inside)
            if self._contradict(counted, told, seconds, apart_s=apart_s, at_s=new.end_s):
                return Agreement(
                    broken=True,
                    reloaded_s=self.reloaded_s,
                    counted_rps=counted / seconds,
                    told_rps=told / seconds,
                )
        broken = self.broken and not _agree(spans)
        return Agreement(
            spans=spans,
            broken=broken,
            reloaded_s=self.reloaded_s,
            counted_rps=self.counted_rps if broken else 0.0,
            told_rps=self.told_rps if broken else 0.0,
        )

    def _contradict(
        self, counted: float, told: float, seconds: float, *, apart_s: float, at_s: float
    ) -> bool:
        """Whether these sums over so many seconds contradict each other."""
        drains = self.reloaded_s is not None and 0.0 <= at_s - self.reloaded_s < DRAINS_S
        if counted > told and drains:
            return False
        # One second's requests, as the source tells them that has not caught up at once.
        usual = min(counted, told) if counted > told else max(counted, told)
        between_s = (APART_BROKEN_S if self.broken else APART_S) + max(0.0, apart_s)
        apart = usual * min(1.0, between_s / seconds)
        return _differ(counted, told, apart=apart)


def _differ(counted: float, told: float, *, apart: float = 0.0) -> bool:
    """Whether two counts differ by more than noise and ``apart`` requests between two reads."""
    return abs(counted - told) > SHARE * max(counted, told) + apart + LEAST_REQUESTS


def _agree(spans: tuple[Span, ...]) -> bool:
    """Whether intervals that do not contradict each other are enough to be believed again."""
    seconds = sum(s.span_s for s in spans)
    both = min(sum(s.counted for s in spans), sum(s.told for s in spans))
    enough = seconds >= AGREED_S and len(spans) >= AGREED_LOOKS
    return enough and (both >= LEAST_REQUESTS or seconds >= 0.9 * max(WINDOWS_S))
