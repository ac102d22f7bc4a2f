"""How fast the error budget burns, over a long and a short window.

Theory of operation. The budget is the share of requests that may miss the SLO, 1 - target. A burn
rate of 1 spends exactly that. Both windows must be above the limit: the long one says that it
matters, the short one that it still goes on (Google, *The Site Reliability Workbook*, chapter 5,
with 1 h and 5 min at 14.4; here 5 min and 30 s, as a change of ours is judged within minutes).

Triton does not say how long single requests took, only sums. So the share that missed is estimated
per interval, see ``missed_fraction``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from control.core.load.windows import Interval
from control.core.policy import Policy

BINS_A_SHORT_WINDOW = 10


class Bin(NamedTuple):
    """Requests of a few seconds, and how many of them were bad."""

    start_s: float
    end_s: float
    total: float
    bad: float


def pending_at_start(new: Interval) -> float:
    """How many waited when the interval began."""
    return max(0.0, new.pending - (new.arrivals - new.completed - new.failed))


def missed_fraction(new: Interval, *, slo_s: float) -> float:
    """The estimated share of the interval's requests that miss the SLO, failures aside; 0 to 1.

    Two views, of which the worse counts:

    - of those that were answered: they waited w seconds on average and were computed for s. Waits
      of a queue that holds have an exponential tail: P(w > SLO - s) = exp(-(SLO - s) / w).
    - of those that came: who finds more waiting than is answered within SLO - s is too late. The
      queue is taken to grow evenly from the start of the interval to its end.

    Example:
        Answered 100 in 1 s, 20 ms waited and 30 ms computed each, SLO 100 ms: exp(-70 / 20) = 3%.
    """
    if new.completed <= 0:
        # Nobody was answered: bad once somebody has waited for the whole SLO.
        return 1.0 if new.pending > 0 and new.span_s >= slo_s else 0.0
    slack_s = slo_s - max(0.0, new.compute_s) / new.completed
    if slack_s <= 0:
        return 1.0
    wait_s = max(0.0, new.queue_s) / new.completed
    answered = math.exp(-slack_s / wait_s) if wait_s > 0 else 0.0
    in_time = new.completed / new.span_s * slack_s
    low, high = sorted((pending_at_start(new), new.pending))
    if high <= in_time:
        came = 0.0
    elif low >= in_time:
        came = 1.0
    else:
        came = (high - in_time) / (high - low)
    return max(answered, came)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBudget:
    """Good and bad requests of the long window, in bins of a tenth of the short one."""

    bins: tuple[Bin, ...] = ()

    def absorb(self, new: Interval, policy: Policy) -> ErrorBudget:
        """The budget after one more interval; an interval that is not finite is left out."""
        total = max(new.arrivals, new.completed + new.failed)
        bad = missed_fraction(new, slo_s=policy.slo_s) * (total - new.failed) + new.failed
        if not (math.isfinite(total) and math.isfinite(bad)):
            return self
        kept = [
            b for b in self.bins if new.end_s - policy.burn_long_s < b.end_s <= new.start_s + 1e-6
        ]
        last = kept[-1] if kept else None
        if last and new.end_s - last.start_s <= policy.burn_short_s / BINS_A_SHORT_WINDOW:
            kept[-1] = Bin(last.start_s, new.end_s, last.total + total, last.bad + bad)
        else:
            kept.append(Bin(new.start_s, new.end_s, total, bad))
        return ErrorBudget(bins=tuple(kept))

    def burn_rate(self, policy: Policy, *, window_s: float, at_s: float) -> float:
        """Bad share over the window as a multiple of 1 - target; 0 without requests."""
        inside = [b for b in self.bins if b.end_s > at_s - window_s]
        total = sum(b.total for b in inside)
        if total < 1:
            return 0.0
        return sum(b.bad for b in inside) / total / (1.0 - policy.slo_target_fraction)

    def burning(self, policy: Policy, *, at_s: float) -> bool:
        """Whether both windows burn above the limit, of at least so many requests."""
        seen = sum(b.total for b in self.bins if b.end_s > at_s - policy.burn_long_s)
        if seen < policy.burn_requests:
            return False
        return all(
            self.burn_rate(policy, window_s=window_s, at_s=at_s) > policy.burn_limit
            for window_s in (policy.burn_long_s, policy.burn_short_s)
        )
