"""What a person does about a reason or a clamp, in one or two sentences each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from control.core.types import Clamp, Reason

REASONS: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.HOLD_NO_DATA: (
            "See the log for `triton.unreachable` or `counters.unreachable`: is the server up, is "
            "`--metrics-url` right?"
        ),
        Reason.HOLD_IDLE: "Nothing. Without a request there is no service time to plan with.",
        Reason.HOLD_WARMING_UP: (
            "Wait one `stable_window`. A controller that has just started knows too little to "
            "change anything but a backlog."
        ),
        Reason.HOLD_STEADY: "Nothing.",
        Reason.HOLD_QUIET_TIME: (
            "Nothing. `quiet` and `cooldown` in the policy say how long it waits."
        ),
        Reason.SCALE_UP_LOAD: (
            "Nothing. It is an in-place change of the instance count, or a reload where the load, "
            "averaged or at the newest look alone, is more than 1.1 times the capacity and the "
            "queue would never be empty."
        ),
        Reason.SCALE_UP_BACKLOG: (
            "Nothing. It is a reload, because an in-place change can starve behind a full queue: "
            "see [how Triton behaves](../explanation/triton-behaviour.md). When it comes often, "
            "raise `min_instances` so that bursts find an instance."
        ),
        Reason.SCALE_DOWN: "Nothing. When it goes down and up in turns, raise `quiet`.",
        Reason.HOLD_FROZEN: (
            "`conch control status` says until when. `conch control resume MODEL` ends it."
        ),
        Reason.ROLLBACK: (
            "Nothing at once: the last good settings come back, and those are not tried again for "
            "10 minutes. See [the guard](../explanation/guard.md) for what is worse; when it "
            "comes often, `rebatch: false` keeps the batching as it is."
        ),
        Reason.REBATCH: (
            "Nothing. `plan_gain` in its terms says what was expected of it. `rebatch: false` in "
            "the policy forbids it."
        ),
        Reason.OUT_OF_BOUNDS: (
            "Nothing: it goes to the nearest bound, down in steps. Change `min_instances` or "
            "`max_instances` if that is not what you want."
        ),
        Reason.AT_LIMIT: (
            "Raise `max_instances` if the machine has cores or memory left, relax `slo`, shrink "
            "the model (`conch export`), or send some load elsewhere."
        ),
    }
)

CLAMPS: Mapping[Clamp, str] = MappingProxyType(
    {
        Clamp.MIN_INSTANCES: "Nothing; lower `min_instances` to allow less.",
        Clamp.MAX_INSTANCES: "Raise `max_instances` if the machine has room.",
        Clamp.STEP_DOWN: "Nothing; the next step follows after the `cooldown`.",
        Clamp.COOLDOWN: "Nothing; `cooldown` in the policy says how long. A scale up never waits.",
        Clamp.RELOAD_BUDGET: (
            "Wait, or raise `reloads_per_hour`. A scale up that wanted a fresh copy is made in "
            "place meanwhile."
        ),
        Clamp.BLOCKED: (
            "Look why it failed: `conch control status`, `conch repo history MODEL` and the log's "
            "`config.rejected`. It is tried again after 10 minutes."
        ),
        Clamp.MEMORY: (
            "Free some memory, or lower `max_instances`. An instance is expected to take 1.2 times "
            "what one took so far, and a reload holds every instance twice for a while."
        ),
        Clamp.FROZEN: "`conch control resume MODEL` ends it.",
        Clamp.BURN_RATE: (
            "Nothing: too many requests miss the SLO for a change that adds no capacity. It passes "
            "when that is over. If it does not, raise `max_instances` or shrink the model."
        ),
        Clamp.CHANGE_BUDGET: (
            "Nothing; what adds capacity is never held. When it comes often, raise `quiet`: the "
            "count goes up and down too much."
        ),
        Clamp.CHANGE_IN_FLIGHT: "Nothing; it passes when the change has ended.",
    }
)
