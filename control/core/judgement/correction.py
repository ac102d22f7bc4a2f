"""κ: how much slower requests really are than the model of the queue says, slowly learnt.

Theory of operation. Each look gives a ratio of a seen and a predicted latency. The SLO that is
planned for is divided by its moving average where that is off by more than a tenth. Such a factor
is known to oscillate when it learns from transients (Dynamo's planner lists it among its own
limits), so it is bounded, slow, and frozen while a change settles, while one is in flight and in a
panic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOW, HIGH = 0.7, 1.5
TIME_CONSTANT_S = 10.0
FIRST_WEIGHT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The factor and when it was last looked at.

    Attributes:
        factor: κ, from 0.7 to 1.5; 1 until something was seen.
        at_s: of the last update, frozen or not; None before the first.
    """

    factor: float = 1.0
    at_s: float | None = None

    def update(
        self, observed_s: float | None, predicted_s: float | None, at_s: float, *, frozen: bool
    ) -> Correction:
        """The factor after one more pair of latencies of the same kind (both p99, or both means).

        A pair that is not finite and above 0 teaches nothing; nor does one while ``frozen``. The
        weight of a pair grows with the time since the last one: 1 - exp(-Δt / 10 s).

        Example:
            >>> slow = Correction(factor=1.0, at_s=0.0).update(0.2, 0.1, 10.0, frozen=False)
            >>> round(slow.factor, 3)  # towards the limit of 1.5, by 1 - 1/e
            1.316
        """
        if not math.isfinite(at_s):
            return self
        if frozen or not (_usable(observed_s) and _usable(predicted_s)):
            return Correction(factor=self.factor, at_s=at_s)
        assert observed_s is not None  # `_usable` says so
        assert predicted_s is not None
        ratio = min(HIGH, max(LOW, observed_s / predicted_s))
        weight = FIRST_WEIGHT
        if self.at_s is not None:
            weight = -math.expm1(-max(0.0, at_s - self.at_s) / TIME_CONSTANT_S)
        return Correction(factor=self.factor + weight * (ratio - self.factor), at_s=at_s)


def _usable(seconds: float | None) -> bool:
    """Whether it is a latency at all."""
    return seconds is not None and math.isfinite(seconds) and seconds > 0
