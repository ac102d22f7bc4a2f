"""When a reload pays: what it saves while the new settings hold, against what it costs.

All in instance-seconds. A reload takes the cores of a second copy for as long as that loads, and
some of the requests that come meanwhile miss the SLO. A miss is worth as many requests' work as the
objective asks to be in time for each one that may be late: at 99 %, a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

from control.core.memory.state import ControlState
from control.core.need.batching import BatchingPlan
from control.core.need.wanted import Wanted
from control.core.queue_model.knowledge import Knowledge
from control.core.types import Policy, Settings

HOLD_S = 600.0
"""So long new settings are expected to hold; the load is another one then."""
ENDANGERED_FRACTION = 0.05
"""Of the requests that come while a copy loads. Reloads of small models beside 100 req/s showed one
spike of some 50 ms in 2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What one reload is.

    Attributes:
        seconds: how long it takes, as earlier ones did.
        instances: that are loaded anew.
        rate_rps: requests that come meanwhile.
        service_s: work of an instance for one request.
    """

    seconds: float
    instances: int
    rate_rps: float
    service_s: float

    def cost_s(self, policy: Policy) -> float:
        """Instance-seconds that it costs.

        Example:
            2 s for 1 instance beside 100 req/s of 5 ms each, of which 99 % must be in time: 2 s of
            the copy, and 10 requests that miss, worth 100 · 5 ms each: 7 instance-seconds.
        """
        missed = ENDANGERED_FRACTION * self.rate_rps * self.seconds
        return self.seconds * self.instances + missed * miss_s(self.service_s, policy)


def miss_s(service_s: float, policy: Policy) -> float:
    """What one miss is worth, in instance-seconds."""
    return service_s / max(1e-6, 1.0 - policy.slo_target_fraction)


def pays(
    reload: Reload, policy: Policy, *, capacity_rps: float, new_capacity_rps: float, panic: bool
) -> bool:
    """Whether a reload for more capacity per instance is worth its cost.

    Saved are the work of the load that both carry, and the misses of what only the new settings
    carry. Never in a panic that the present settings can end: a reload then costs most. Where they
    carry less than what comes, waiting would not end it.

    Args:
        reload: what it is; its rate is what must be carried.
        policy: the objective.
        capacity_rps: the most that the present settings carry within the SLO.
        new_capacity_rps: the same with the new ones.
        panic: whether what waits endangers the SLO.
    """
    if new_capacity_rps <= capacity_rps:
        return False
    carried_rps = min(reload.rate_rps, capacity_rps)
    rescued_rps = min(reload.rate_rps, new_capacity_rps) - carried_rps
    if panic and rescued_rps <= 0:
        return False
    if capacity_rps <= 0:
        return rescued_rps > 0
    work_s = carried_rps * reload.service_s * (1.0 - capacity_rps / new_capacity_rps)
    saved_s = HOLD_S * (work_s + rescued_rps * miss_s(reload.service_s, policy))
    return saved_s > reload.cost_s(policy)


def rebatch_pays(
    state: ControlState, plan: BatchingPlan, applied: Settings, want: Wanted, known: Knowledge
) -> bool:
    """Whether a batching plan is worth its reload, by the policy's ratio and by its cost."""
    policy = known.policy
    if plan.settings.same_but_count(applied) or plan.gain < policy.rebatch_gain:
        return False
    full_rps = known.throughput_rps(applied, applied.instances)
    count = max(plan.settings.instances, applied.instances)
    if (
        plan.capacity_rps < want.need_rps
        and known.throughput_rps(plan.settings, count) < policy.rebatch_gain * full_rps
    ):  # neither keeps the SLO: the queue decides, and a smaller batch drains none
        return False
    reload = Reload(
        seconds=state.reload_s(policy),
        instances=count,
        rate_rps=want.need_rps,
        service_s=applied.instances / max(1e-9, full_rps),
    )
    return pays(
        reload,
        policy,
        capacity_rps=plan.applied_capacity_rps,
        new_capacity_rps=plan.capacity_rps,
        panic=want.panic,
    )
