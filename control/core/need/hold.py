"""For how long instances are held that nobody needs.

Theory of operation. Where the policy has an ``idle_cost``, instances are held until what they cost
while nobody needed them equals what loading them again would cost in late requests. This is the
break-even rule of ski rental (Karlin et al., *Competitive Randomized Algorithms for Nonuniform
Problems*, 1994, the deterministic case): at most twice the best release times in hindsight where
the same count is needed again. ``conch perf bench hindsight`` measures it.
"""

from __future__ import annotations

from control.core.memory.state import Loads
from control.core.policy import Policy
from control.core.queue_model.knowledge import fewest

SEEN_AND_DRAINED_S = 2.0
"""What it takes to see a rise and to drain what it left, beside the loading."""
RECENT_S = 30.0
"""Where idle instances cost nothing, what was needed this long ago is still held before others."""
HOUR_S = 3600.0


def held(loads: Loads, capacities: dict[int, float], policy: Policy, *, load_s: float) -> int:
    """The most instances that were needed while holding them was the cheaper way.

    Each count is held until all idle instances up to it have cost as much as loading it again: a
    jump by three instances is late once, and three that wait for it cost three times as much.
    """
    at_s, called_rps = loads[-1]
    hold = reached = fewest(capacities, called_rps)
    idle_s = 0.0
    for loaded_s, load_rps in reversed(loads):
        count = fewest(capacities, load_rps)
        if count > reached:
            idle_s += (count - reached) * (at_s - loaded_s)
            reached = count
            spent_s = idle_s if policy.idle_cost > 0.0 else at_s - loaded_s
            if spent_s < held_for_s(policy, capacities[count], load_s=load_s):
                hold = count
    return hold


def held_for_s(policy: Policy, carried_rps: float, *, load_s: float) -> float:
    """For how many instance-seconds instances are held that nobody needs.

    Until they have cost as much as the requests that come while they are loaded again: all of
    those are late, as they wait in one queue, however many instances load side by side.

    Args:
        policy: its ``idle_cost``.
        carried_rps: what comes when they are needed again: Λ of the count that they make up.
        load_s: how long an instance takes to load.

    Example:
        100 late requests an instance-hour, 50 req/s, 3 s to load: 5 s · 50 = 250 late requests, as
        much as one instance idle for 2.5 hours.
    """
    if policy.idle_cost <= 0.0:
        return RECENT_S
    return HOUR_S * carried_rps * (load_s + SEEN_AND_DRAINED_S) / policy.idle_cost
