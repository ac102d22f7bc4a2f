"""How much longer than usual batches take in the slow seconds of a machine that is shared.

Theory of operation. Work that nobody here sees (another tenant, the sender of the load, a loading)
makes every batch of a second slow together. A queue model whose batches scatter one by one averages
that out, and a count just below its capacity then falls behind for a second, and its queue stays.
So each second's work is compared with what batches of the same sizes and settings took until then;
the capacity is that of a machine slower by ``Z`` mean deviations. Of MiniLM on two shared cores one
second deviates by 8 to 11 %, of an emulated accelerator by 1 %: docs/explanation/loop/service.md.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

from control.core.service.evidence import Compared

SHIFT = 1.25
"""Times; and its inverse. The device is another where every second for so long is beyond it."""
SHIFT_SECONDS = 3
"""One second more than a neighbour works at a time, as he is simulated."""
SECOND_S = 0.9
"""Looks of a little less than half a second or a whole one make up a second."""
LEAST_BATCHES = 20.0
"""Single batches that scatter by a fifth average out to 4 %; with fewer, a second lasts longer."""
LEVEL_S = 10.0
"""Of the moving average that a second is compared with: a new load is no slow second for long."""
KEPT_S = 120.0
"""Time constant of the deviation."""
DOUBT_S = 10.0
"""As if it had been steady for so long before the first second."""
Z = 2.0
WITHIN_MARGINS = 0.05
"""What the utilisation limit and the margin of the SLO leave room for already."""
LEAST, MOST = 0.67, 1.5
"""Of a second's ratio: beyond it, it was another fault."""
NORMAL = math.sqrt(math.pi / 2.0)
"""The standard deviation as a ratio of the mean absolute one, which one odd second moves less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSeconds:
    """How much single seconds differ, and the second that is under way.

    Attributes:
        setting: (instances, threads) of the second under way.
        busy_s, usual_s, batches, span_s: of it: work, what the same batches took until then, their
            number, and its length.
        level: moving average of the ratio of work to usual work; None before the first second.
        deviation: mean absolute deviation from it, not yet divided by ``weight``.
        weight: 0 to 1, how much was seen of late.
        ratios: of the newest seconds, at most ``SHIFT_SECONDS``.
    """

    setting: tuple[int, int] | None = None
    busy_s: float = 0.0
    usual_s: float = 0.0
    batches: float = 0.0
    span_s: float = 0.0
    level: float | None = None
    deviation: float = 0.0
    weight: float = 0.0
    ratios: tuple[float, ...] = ()

    def absorb(self, compared: Compared, *, span_s: float, setting: tuple[int, int]) -> SlowSeconds:
        """The memory after ``span_s`` in which these batches were executed.

        Without a batch whose usual time is known nothing is learnt.
        """
        if setting != self.setting:
            same = SlowSeconds(setting=setting, deviation=self.deviation, weight=self.weight)
            return same.absorb(compared, span_s=span_s, setting=setting)
        if compared.usual_s <= 0.0 or compared.busy_s <= 0.0:
            return self
        busy_s, usual_s = self.busy_s + compared.busy_s, self.usual_s + compared.usual_s
        batches, span_s = self.batches + compared.batches, self.span_s + span_s
        if span_s < SECOND_S or batches < LEAST_BATCHES:
            return replace(self, busy_s=busy_s, usual_s=usual_s, batches=batches, span_s=span_s)
        ratios = (*self.ratios, busy_s / usual_s)[-SHIFT_SECONDS:]
        ratio = min(MOST, max(LEAST, ratios[-1]))
        level = ratio if self.level is None else self.level
        apart = min(MOST - 1.0, abs(ratio / level - 1.0))
        keep = math.exp(-span_s / KEPT_S)
        return SlowSeconds(
            setting=setting,
            level=level - (ratio - level) * math.expm1(-span_s / LEVEL_S),
            deviation=self.deviation * keep + (1.0 - keep) * apart,
            weight=self.weight * keep + (1.0 - keep),
            ratios=ratios,
        )

    @property
    def shift(self) -> float:
        """By how much all batches take longer than they did, surely; 1 where they do not.

        Example:
            >>> SlowSeconds(ratios=(1.4, 2.6, 2.5)).shift, SlowSeconds(ratios=(1.1, 2.6, 2.5)).shift
            (2.5, 1.0)
        """
        if len(self.ratios) < SHIFT_SECONDS:
            return 1.0
        beyond = min(self.ratios) > SHIFT or max(self.ratios) < 1.0 / SHIFT
        return statistics.median(self.ratios) if beyond else 1.0

    @property
    def shifting(self) -> bool:
        """Whether the newest second was another than is known of such batches."""
        return bool(self.ratios) and not 1.0 / SHIFT <= self.ratios[-1] <= SHIFT

    def shifted(self) -> SlowSeconds:
        """The memory once the usual times are those of the shift."""
        return replace(self, level=None, ratios=())

    @property
    def possible(self) -> bool:
        """Whether this can have been learnt."""
        return self.weight <= 1.0 and self.deviation <= (MOST - 1.0) * self.weight

    def aged(self, seconds: float) -> SlowSeconds:
        """The memory after so long without a look, in which another second begins."""
        keep = math.exp(-seconds / KEPT_S)
        weight = min(1.0, self.weight)
        deviation = min(self.deviation, (MOST - 1.0) * weight)
        return SlowSeconds(deviation=deviation * keep, weight=weight * keep)

    @property
    def slower(self) -> float:
        """Time of a batch in a slow second as a ratio of its usual time, beyond the margins; ≥ 1.

        Example:
            >>> SlowSeconds().slower, round(SlowSeconds(deviation=0.08, weight=1.0).slower, 2)
            (1.0, 1.14)
        """
        spread = NORMAL * self.deviation / (self.weight + DOUBT_S / KEPT_S)
        return 1.0 + max(0.0, Z * spread - WITHIN_MARGINS)
