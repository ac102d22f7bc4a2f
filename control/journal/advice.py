"""What a person does about a reason or a clamp, in one or two sentences each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from control.core.reasons import RETIRED, Clamp, Reason

OF_EARLIER = "Nothing: only journals of earlier versions have it."

REASONS: Mapping[Reason, str] = MappingProxyType(
    {
        **{one: OF_EARLIER for one in RETIRED if isinstance(one, Reason)},
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
            "Nothing. An instance that nobody needs is held until that has cost as much as loading "
            "it again would, by the `idle_cost` of the policy."
        ),
        Reason.SCALE_UP_LOAD: (
            "Nothing. It is an in-place change of the instance count, or a reload where arrivals "
            "would be late for a shorter time that way: see "
            "[in place, or by a second copy](../explanation/loop/second-copy.md)."
        ),
        Reason.SCALE_UP_BACKLOG: (
            "Nothing. It is mostly a reload, as arrivals wait behind the backlog after a change in "
            "place; on cores that the model fills, in place is faster. When it comes often, "
            "lower `idle_cost`, or raise `min_instances`, so that bursts find an instance."
        ),
        Reason.SCALE_UP_RESERVE: (
            "Nothing. The load is carried; the instances are there for one that nobody foresees. "
            "Lower `max_instances`, or set `idle_cost`, where others have a use for their room."
        ),
        Reason.SCALE_DOWN: "Nothing. When it goes down and up in turns, lower `idle_cost`.",
        Reason.HOLD_CONTRADICTED: (
            "Find out which source is wrong; `conch control explain MODEL` has both figures. "
            "Counters that stand still are those of a server with `--metrics-config "
            "counter_latencies=false`, of a proxy that caches `/metrics`, or of another server "
            "than `--url`. Nothing is changed until both have agreed for some seconds."
        ),
        Reason.HOLD_FROZEN: (
            "`conch control status` says until when. `conch control resume MODEL` ends it."
        ),
        Reason.HOLD_EDITED: (
            "Load the edit with `conch repo load MODEL`, or bring a revision back with "
            "`conch repo rollback MODEL --to N`; until then nothing is done to this model. "
            "`conch repo history MODEL` lists the revisions, `conch repo check` says what is wrong "
            "with a file."
        ),
        Reason.HOLD_RULE: (
            "Nothing. `conch control rules NAME` tells how the policy's `rule` decides; its "
            "numbers are in the terms."
        ),
        Reason.SCALE_BY_RULE: (
            "Nothing. `conch control rules NAME` tells how the policy's `rule` decides; its "
            "numbers are in the terms."
        ),
        Reason.QUALITY_DOWN: (
            "Raise `max_instances` or the budget if the better version should have gone on. "
            "Without `versions` in the policy the version never changes."
        ),
        Reason.QUALITY_STANDBY: "Nothing. It takes the memory of one more version.",
        Reason.QUALITY_UP: "Nothing.",
        Reason.CACHE_SWITCH: "Nothing. `response_cache: false` in the policy forbids it.",
        Reason.ROLLBACK: (
            "Nothing at once: the last good settings come back, and those are not tried again for "
            "10 minutes. See [judgement](../explanation/loop/judgement.md) for what is worse; when "
            "it comes often, `rebatch: false` keeps the batching as it is."
        ),
        Reason.REBATCH: (
            "Nothing. `plan_gain` in its terms says what was expected of it. `rebatch: false` in "
            "the policy forbids it."
        ),
        Reason.OUT_OF_BOUNDS: (
            "Nothing: it goes to the nearest bound, down in steps. Change `min_instances` or "
            "`max_instances` if that is not what you want."
        ),
        Reason.OVER_BUDGET: (
            "Raise `budget`, or this model's `weight`, if the others should not have come first."
        ),
        Reason.AT_LIMIT: (
            "Raise `max_instances` if the machine has cores or memory left, relax `slo`, shrink "
            "the model (`conch export`), or send some load elsewhere. With `cap_instances` in its "
            "terms the limit is the budget: it waits for what others are about to give up. With "
            "`slot_instances` it may be the server's slots: start it with more (`conch serve`)."
        ),
    }
)

CLAMPS: Mapping[Clamp, str] = MappingProxyType(
    {
        **{one: OF_EARLIER for one in RETIRED if isinstance(one, Clamp)},
        Clamp.MIN_INSTANCES: "Nothing; lower `min_instances` to allow less.",
        Clamp.MAX_INSTANCES: "Raise `max_instances` if the machine has room.",
        Clamp.COOLDOWN: (
            "Nothing; `cooldown` in the policy says how long. A scale up waits only after Triton "
            "was not there, and each failure in a row doubles the wait."
        ),
        Clamp.RELOAD_BUDGET: (
            "Wait, or raise `reloads_per_hour`. A scale up that wanted a second copy is made in "
            "place meanwhile; its limit is `copies_per_hour`."
        ),
        Clamp.BLOCKED: (
            "Look why it failed: `conch control status`, `conch repo history MODEL` and the log's "
            "`config.rejected`. It is tried again after 10 minutes."
        ),
        Clamp.BUDGET: (
            "Raise `budget` or this model's `weight` if the others should not have come first. A "
            "scale up for whose second copy there is no room is made in place."
        ),
        Clamp.PROBE: (
            "Nothing; the next step follows when the new count was seen at work. Nobody can say "
            "how instances that share full cores or a device will slow each other down."
        ),
        Clamp.MEMORY: (
            "Free some memory, or lower `max_instances`. An instance is expected to take 1.2 times "
            "what one took so far, and a reload holds every instance twice for a while."
        ),
        Clamp.BURN_RATE: (
            "Nothing: too many requests miss the SLO for a change that adds no capacity. It passes "
            "when that is over. If it does not, raise `max_instances` or shrink the model."
        ),
        Clamp.CHANGE_BUDGET: (
            "Nothing; what adds capacity is never held. When it comes often, lower `idle_cost`: "
            "the count goes up and down too much."
        ),
        Clamp.CHANGE_IN_FLIGHT: "Nothing; it passes when the change has ended.",
    }
)
